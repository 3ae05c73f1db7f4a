"""Write dialog state to Cognigy.AI from asyncio and trio programs.

Start with `AsyncStateClient`. The package imports the module of a name when you first use the name.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from .api.base import StateApi
    from .api.endpoint import Endpoint
    from .api.runtime import RuntimeApi
    from .api.sessions import SessionsApi
    from .api.tenant import TenantProfile
    from .audit.json_lines import JsonLinesAudit
    from .audit.records import AuditRecord
    from .audit.sinks import AuditSink, LoggingAudit, MemoryAudit
    from .audit.verify import AuditChain, AuditFault, AuditReport, read_audit, verify_audit
    from .auth.oauth import OAuthTokenProvider
    from .auth.provider import AccessToken, ApiKey, TokenProvider
    from .auth.token_endpoint import OAuthConfig
    from .client.client import AsyncStateClient
    from .client.pending import PendingUpdate
    from .client.plan import Plan, plan
    from .client.probe import Injection, probe_inject
    from .client.stream import UpdateStream
    from .errors import (
        AmbiguousUpdateError,
        AuditError,
        AuthenticationError,
        BadRequestError,
        CallbackError,
        ClientClosedError,
        ClientUsageError,
        CognigyError,
        ConfigurationError,
        DeadlineExceededError,
        DialogNotFoundError,
        DialogPausedError,
        Fault,
        NoResponseError,
        NotSentError,
        OutboxError,
        PayloadTooLargeError,
        PermissionDeniedError,
        QueueFullError,
        RateLimitedError,
        ServerError,
        SharedQuotaError,
        StateConflictError,
        UnexpectedAnswerError,
        UnsupportedByApiError,
        UpdateError,
        UpdateValidationError,
        UpdateWithdrawnError,
        VariableTypeError,
    )
    from .hooks.observers import Observation, Observer, Operation
    from .hooks.options import HookOptions
    from .metrics import Distribution, Metrics, MetricsSnapshot, QuotaUse, TargetStatus
    from .models.events import DeadLetter, UpdateEvent
    from .models.http import Request, Response
    from .models.limits import Limits
    from .models.results import CloseReport, DialogState, DrainReport, UpdateOutcome, UpdateResult
    from .models.update import StateUpdate, UpdateFields
    from .ratelimit.limit import RateLimit
    from .retry import ResponseKind, RetryPolicy
    from .transports.aiohttp import AiohttpTransport
    from .transports.base import Transport
    from .transports.httpx import HttpxTransport
    from .transports.pyreqwest import PyreqwestTransport

    __version__: str

__all__ = [
    "AccessToken",
    "AiohttpTransport",
    "AmbiguousUpdateError",
    "ApiKey",
    "AsyncStateClient",
    "AuditChain",
    "AuditError",
    "AuditFault",
    "AuditRecord",
    "AuditReport",
    "AuditSink",
    "AuthenticationError",
    "BadRequestError",
    "CallbackError",
    "ClientClosedError",
    "ClientUsageError",
    "CloseReport",
    "CognigyError",
    "ConfigurationError",
    "DeadLetter",
    "DeadlineExceededError",
    "DialogNotFoundError",
    "DialogPausedError",
    "DialogState",
    "Distribution",
    "DrainReport",
    "Endpoint",
    "Fault",
    "HookOptions",
    "HttpxTransport",
    "Injection",
    "JsonLinesAudit",
    "Limits",
    "LoggingAudit",
    "MemoryAudit",
    "Metrics",
    "MetricsSnapshot",
    "NoResponseError",
    "NotSentError",
    "OAuthConfig",
    "OAuthTokenProvider",
    "Observation",
    "Observer",
    "Operation",
    "OutboxError",
    "PayloadTooLargeError",
    "PendingUpdate",
    "PermissionDeniedError",
    "Plan",
    "PyreqwestTransport",
    "QueueFullError",
    "QuotaUse",
    "RateLimit",
    "RateLimitedError",
    "Request",
    "Response",
    "ResponseKind",
    "RetryPolicy",
    "RuntimeApi",
    "ServerError",
    "SessionsApi",
    "SharedQuotaError",
    "StateApi",
    "StateConflictError",
    "StateUpdate",
    "TargetStatus",
    "TenantProfile",
    "TokenProvider",
    "Transport",
    "UnexpectedAnswerError",
    "UnsupportedByApiError",
    "UpdateError",
    "UpdateEvent",
    "UpdateFields",
    "UpdateOutcome",
    "UpdateResult",
    "UpdateStream",
    "UpdateValidationError",
    "UpdateWithdrawnError",
    "VariableTypeError",
    "plan",
    "probe_inject",
    "read_audit",
    "verify_audit",
]

_HOMES = {
    "AccessToken": "auth.provider",
    "AiohttpTransport": "transports.aiohttp",
    "AmbiguousUpdateError": "errors",
    "ApiKey": "auth.provider",
    "AsyncStateClient": "client.client",
    "AuditChain": "audit.verify",
    "AuditError": "errors",
    "AuditFault": "audit.verify",
    "AuditRecord": "audit.records",
    "AuditReport": "audit.verify",
    "AuditSink": "audit.sinks",
    "AuthenticationError": "errors",
    "BadRequestError": "errors",
    "CallbackError": "errors",
    "ClientClosedError": "errors",
    "ClientUsageError": "errors",
    "CloseReport": "models.results",
    "CognigyError": "errors",
    "ConfigurationError": "errors",
    "DeadLetter": "models.events",
    "DeadlineExceededError": "errors",
    "DialogNotFoundError": "errors",
    "DialogPausedError": "errors",
    "DialogState": "models.results",
    "Distribution": "metrics",
    "DrainReport": "models.results",
    "Endpoint": "api.endpoint",
    "Fault": "errors",
    "HookOptions": "hooks.options",
    "HttpxTransport": "transports.httpx",
    "Injection": "client.probe",
    "JsonLinesAudit": "audit.json_lines",
    "Limits": "models.limits",
    "LoggingAudit": "audit.sinks",
    "MemoryAudit": "audit.sinks",
    "Metrics": "metrics",
    "MetricsSnapshot": "metrics",
    "NoResponseError": "errors",
    "NotSentError": "errors",
    "OAuthConfig": "auth.token_endpoint",
    "OAuthTokenProvider": "auth.oauth",
    "Observation": "hooks.observers",
    "Observer": "hooks.observers",
    "Operation": "hooks.observers",
    "OutboxError": "errors",
    "PayloadTooLargeError": "errors",
    "PendingUpdate": "client.pending",
    "PermissionDeniedError": "errors",
    "Plan": "client.plan",
    "PyreqwestTransport": "transports.pyreqwest",
    "QueueFullError": "errors",
    "QuotaUse": "metrics",
    "RateLimit": "ratelimit.limit",
    "RateLimitedError": "errors",
    "Request": "models.http",
    "Response": "models.http",
    "ResponseKind": "retry",
    "RetryPolicy": "retry",
    "RuntimeApi": "api.runtime",
    "ServerError": "errors",
    "SessionsApi": "api.sessions",
    "SharedQuotaError": "errors",
    "StateApi": "api.base",
    "StateConflictError": "errors",
    "StateUpdate": "models.update",
    "TargetStatus": "metrics",
    "TenantProfile": "api.tenant",
    "TokenProvider": "auth.provider",
    "Transport": "transports.base",
    "UnexpectedAnswerError": "errors",
    "UnsupportedByApiError": "errors",
    "UpdateError": "errors",
    "UpdateEvent": "models.events",
    "UpdateFields": "models.update",
    "UpdateOutcome": "models.results",
    "UpdateResult": "models.results",
    "UpdateStream": "client.stream",
    "UpdateValidationError": "errors",
    "UpdateWithdrawnError": "errors",
    "VariableTypeError": "errors",
    "plan": "client.plan",
    "probe_inject": "client.probe",
    "read_audit": "audit.verify",
    "verify_audit": "audit.verify",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _read_version()
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _read_version() -> str:
    """Return the version of the installed distribution; ``0+unknown`` if it is not installed."""
    # Imported here, because it costs more than the package itself.
    import importlib.metadata

    try:
        return importlib.metadata.version("cognigy-async")
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"
