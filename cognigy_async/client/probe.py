"""Find out whether the server's context/inject merges or replaces; `SessionsApi` needs this."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from .client import AsyncStateClient

Injection: TypeAlias = Literal["merge", "merge recursively", "replace"]

KEPT, OBJECT = "probe_kept", "probe_object"


async def probe_inject(
    client: AsyncStateClient, dialog_id: str, *, user_id: str | None = None
) -> Injection | None:
    """Inject twice and find out from the responses whether the second one replaces the first.

    The vendor does not document what inject does. The probe writes the variables ``probe_kept`` and
    ``probe_object``. If inject replaces the context, the session loses all other variables: use a
    session that nobody needs.

    Args:
        client: Client with `SessionsApi`.
        dialog_id: Id of the session.
        user_id: Owner of the session; see `AsyncStateClient.update`.

    Returns:
        ``"merge"``: Inject keeps variables that it does not name and replaces the others whole.
        ``"merge recursively"``: Inject also merges objects into objects. Use
        ``SessionsApi(inject="merge")`` for both results, and ``SessionsApi(inject="replace")`` for
        ``"replace"``. None: The responses do not contain the context.

    Raises:
        CognigyError: See `AsyncStateClient.update`.
    """
    first = {KEPT: True, OBJECT: {"first": True}}
    await client.update(dialog_id, session=first, user_id=user_id)
    second = {OBJECT: {"second": True}}
    result = await client.update(dialog_id, session=second, user_id=user_id)
    context = result.body
    if not isinstance(context, dict) or not isinstance(context.get(OBJECT), dict):
        return None
    if KEPT not in context:
        return "replace"
    return "merge recursively" if "first" in context[OBJECT] else "merge"
