"""What to do, in the words of the command line: the library's messages name its arguments."""

from __future__ import annotations

SETTINGS = {
    "SessionsApi(reads_state=True)": "COGNIGY_READS_STATE=true",
    "SessionsApi(user_id=...)": "COGNIGY_USER_ID",
    "api=RuntimeApi()": "COGNIGY_API=runtime",
    "api=SessionsApi()": "COGNIGY_API=sessions",
}


def as_settings(text: str) -> str:
    """A message with the settings that stand for the arguments it names."""
    for argument, setting in SETTINGS.items():
        text = text.replace(argument, setting)
    return text
