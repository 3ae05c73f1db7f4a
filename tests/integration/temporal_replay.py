"""Replay recorded histories of workflows."""

from __future__ import annotations

from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions


async def replay(workflow: type, workflow_id: str, history: str) -> None:
    """Replay a recorded history in the sandbox of Temporal, which refuses what may differ."""
    restrictions = SandboxRestrictions.default.with_passthrough_modules("cognigy_async")
    runner = SandboxedWorkflowRunner(restrictions)
    replayer = Replayer(workflows=[workflow], workflow_runner=runner)
    await replayer.replay_workflow(WorkflowHistory.from_json(workflow_id, history))
