"""The search attributes of jobs and dialogs, which a cluster may lack."""

from __future__ import annotations

import logging

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

logger = logging.getLogger("cognigy_async")

JOB, DIALOG = "CognigyJob", "CognigyDialog"

MOST_CHARACTERS = 255
"""Characters of a value. Clusters that keep them in MySQL or PostgreSQL take no more."""


def attribute_of(name: str, value: str) -> TypedSearchAttributes:
    """Return the attributes of a workflow."""
    key = SearchAttributeKey.for_keyword(name)
    return TypedSearchAttributes([SearchAttributePair(key, value[:MOST_CHARACTERS])])


def lacks_attribute(error: Exception, name: str) -> bool:
    """Return whether the cluster refused a workflow because of its attribute."""
    is_refused = isinstance(error, RPCError) and error.status is RPCStatusCode.INVALID_ARGUMENT
    return is_refused and name in str(error)


def log_missing(name: str) -> None:
    """Tell the user of an attribute to create."""
    logger.warning(
        "the Temporal cluster does not have the search attribute %s; workflows start without it. "
        "Create it once: temporal operator search-attribute create --name %s --type Keyword",
        name,
        name,
    )
