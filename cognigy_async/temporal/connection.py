"""Connect to a Temporal cluster as other programs do: by its environment variables and profiles."""

from __future__ import annotations

import logging

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.envconfig import ClientConfig

from cognigy_async import ConfigurationError
from cognigy_async._utils.arguments import is_loopback
from cognigy_async.integrations.settings import TemporalSettings

from .codec import data_converter

logger = logging.getLogger("cognigy_async")

DEFAULT_ADDRESS = "localhost:7233"


async def connect(settings: TemporalSettings | None = None) -> Client:
    """Return a client of the cluster that the environment names.

    The address, the namespace and the credentials are those of Temporal's own variables and
    profiles: `TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS`,
    `TEMPORAL_PROFILE` and others (docs.temporal.io, "Environment configuration").

    Raises:
        ConfigurationError: the profile is invalid, the cluster cannot be reached, or it does not
            have the namespace.
    """
    keys = (settings or TemporalSettings()).temporal_keys
    try:
        config = ClientConfig.load_client_connect_config()
    except Exception as error:
        raise ConfigurationError(f"the settings of Temporal cannot be read: {error}") from error
    address = config.setdefault("target_host", DEFAULT_ADDRESS)
    if not keys and not is_loopback(address.rpartition(":")[0].strip("[]")):
        logger.warning(
            "operators of the cluster %s can read variables; set COGNIGY_TEMPORAL_KEY", address
        )
    converter = data_converter(keys) if keys else DataConverter.default
    try:
        client = await Client.connect(**config, data_converter=converter)
        # Without it, a wrong name would show only in each later call.
        namespace = DescribeNamespaceRequest(namespace=client.namespace)
        await client.workflow_service.describe_namespace(namespace)
    except Exception as error:
        # The text of the SDK is that of several layers.
        is_refused = "ConnectionRefused" in str(error)
        problem = "nothing listens at this address" if is_refused else str(error).rstrip(".")
        raise ConfigurationError(
            f"the Temporal cluster at {address} cannot be used: {problem}; check TEMPORAL_ADDRESS, "
            "TEMPORAL_NAMESPACE and the credentials"
        ) from error
    return client
