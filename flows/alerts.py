"""Sends regressions to a webhook, by a block and an automation that fires on the nightly run's event.

    eval "$(tirflow env)"; python -m flows.alerts https://example.org/hook

Run it again with another address to change it. Slack and Teams take such webhooks; for mail, point the automation's
action at a notification block in the UI (Automations, tirflow-regression).
"""

import sys

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from flows.server.cluster import require_server
from tasks.shared.contract.environment import prefect_api_url
from tasks.shared.reporting.nights import EVENT

BLOCK, AUTOMATION = "tirflow-regression", "tirflow-regression"
# Jinja, rendered by the server. `tojson` keeps a message from breaking out of its string.
PAYLOAD = (
    '{"text": {{ ("tirflow: " ~ event.payload.message ~ "; report: " ~ event.payload.report) | tojson }}, '
    '"event": {{ event.payload | tojson }}}'
)


def send_regressions_to(url: str) -> None:
    """Create the block and the automation, or give the existing ones this address. ValueError if it is no URL."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"alerts: '{url}' is no http(s) address")
    block_id = Webhook(method="POST", url=url, headers={"Content-Type": "application/json"}).save(
        BLOCK, overwrite=True
    )
    automation = AutomationCore(
        name=AUTOMATION,
        description="A tagged checkpoint got significantly worse over night",
        trigger=EventTrigger(expect={EVENT}, match={}, posture=Posture.Reactive, threshold=1, within=0),
        actions=[CallWebhook(block_document_id=block_id, payload=PAYLOAD)],
    )
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(AUTOMATION)
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)


def main(arguments: list[str]) -> int:
    """The command; its exit code. A user's mistake ends in one line."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m flows.alerts URL\n")
        return 2
    try:
        require_server(prefect_api_url())
        send_regressions_to(arguments[0])
    except ValueError as error:
        sys.stderr.write(f"error: {str(error).splitlines()[0]}\n")
        return 2
    print(f"regressions go to {arguments[0]} (block {BLOCK}, automation {AUTOMATION})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
