"""Finding out what `SessionsApi` cannot know: what the server's context/inject does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from .client import AsyncStateClient

Injection: TypeAlias = Literal["merge", "merge recursively", "replace"]

KEPT, OBJECT = "probe_kept", "probe_object"


async def probe_inject(
    client: AsyncStateClient, dialog_id: str, *, user_id: str | None = None
) -> Injection | None:
    """Inject twice and tell from the answers what becomes of the first injection.

    It writes the variables ``probe_kept`` and ``probe_object``, and where inject replaces, all else
    in that context is gone: use a session that nobody needs.

    Args:
        client: with `SessionsApi`.
        dialog_id: the session.
        user_id: whose it is, as for `AsyncStateClient.update`.

    Returns:
        ``"merge"``: variables that an injection does not name stay, others are replaced whole.
        ``"merge recursively"``: objects are merged into objects as well. Both go with
        ``SessionsApi(inject="merge")``. ``"replace"`` goes with ``SessionsApi(inject="replace")``.
        None: the answers do not tell the context.

    Raises:
        CognigyError: what `AsyncStateClient.update` raises.
    """
    first = {KEPT: True, OBJECT: {"first": True}}
    await client.update(dialog_id, session=first, user_id=user_id)
    second = {OBJECT: {"second": True}}
    answer = await client.update(dialog_id, session=second, user_id=user_id)
    context = answer.body
    if not isinstance(context, dict) or not isinstance(context.get(OBJECT), dict):
        return None
    if KEPT not in context:
        return "replace"
    return "merge recursively" if "first" in context[OBJECT] else "merge"
