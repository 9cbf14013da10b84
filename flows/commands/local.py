"""`tirflow demo, up, down, env, deploy, run`: a Prefect server and worker on this machine, under one home."""

import json
import shlex
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.commands.follow import Outcome, cancel, follow, start_run
from flows.publish import Row, scores_of
from flows.server import cluster
from tasks.shared.artifacts import Store
from tasks.shared.contract.environment import home, prefect_api_url, store_uri
from tasks.shared.contract.stage import Value
from tasks.shared.runs.record import RunRecords
from tasks.shared.runs.tags import PROMOTED, Tags

DEMO_DEPLOYMENT, DEMO_RUN = "train/tiny", "demo"
DEMO_QUESTION = "What remainder does 53^641 leave when divided by 391?"


def up() -> int:
    """Start server and worker, and deploy everything. They run until `down`."""
    running = cluster.start(home())
    cluster.keep(running)
    print(
        f'Prefect {running.ui_url}, state under {home()}; in this shell: eval "$(tirflow env)"; end: tirflow down'
    )
    return 0


def down() -> int:
    """End server and worker."""
    running = cluster.find(home())
    if running is None:
        print(f"nothing runs under {home()}")
    else:
        cluster.stop(running)
    return 0


def env() -> int:
    """Print the shell lines that point Prefect's own commands at the local server."""
    for name, value in cluster.settings(home(), _running().port).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def deploy() -> int:
    """Bring the local server's deployments in line with prefect.yaml."""
    running = _running()
    cluster.require_server(running.api_url)
    cluster.deploy(home(), running.port)
    return 0


def _running() -> cluster.Cluster:
    running = cluster.find(home())
    if running is None:
        raise ValueError(f"no server runs under {home()}; start one with `tirflow up`")
    return running


def run(deployment: str, parameters: list[str]) -> int:
    """Start a deployment run on the server of PREFECT_API_URL and follow it. `parameters` are name=value each."""
    running = cluster.find(home())
    api_url = cluster.require_server(prefect_api_url() or (running.api_url if running else None))
    command = shlex.join(["tirflow", "run", deployment, *parameters])
    return _run_and_follow(api_url, deployment, read_parameters(parameters), Console(), command)


def demo() -> int:
    """Run the demo: start server and worker, follow `train/tiny` to its scores, promote its checkpoint, end both."""
    console = Console()
    with console.status("starting Prefect server and worker, deploying prefect.yaml"):
        running = cluster.start(home(), owned=True)
    ours = cluster.is_ours(running)
    try:
        console.print(f"Prefect: {running.ui_url}   home: {home()}", soft_wrap=True)
        code = _run_and_follow(running.api_url, DEMO_DEPLOYMENT, {"run": DEMO_RUN}, console, "make demo")
        code = code or _promote(running.api_url, console)
    finally:
        if ours:
            cluster.stop(running)
            ended = "server and worker ended, runs and report are kept; start them again with `tirflow up`"
            console.print(ended, soft_wrap=True)
    if not code:
        console.print(f'ask it: tirflow ask {PROMOTED} "{DEMO_QUESTION}"', soft_wrap=True)
    return code


def _promote(api_url: str, console: Console) -> int:
    """Give the demo's checkpoint the tag `promoted` unless it has that tag. Returns the exit code."""
    from flows.tagged import latest_label

    record, holder = RunRecords(store_uri()).read(DEMO_RUN), Tags(store_uri()).current(PROMOTED)
    if holder is None or holder.checkpoint != record.checkpoint(latest_label(record) or "prepare"):
        outcome = follow(api_url, start_run(api_url, "promote/promote", {"run": DEMO_RUN}), console)
        if outcome.state != "COMPLETED":
            console.print(failure(outcome, "make demo"), soft_wrap=True)
            return 1
    return 0


def _run_and_follow(
    api_url: str, deployment: str, parameters: dict[str, object], console: Console, command: str
) -> int:
    """Start and follow a run. Returns the exit code. `command` continues the run if it fails."""
    flow_run = start_run(api_url, deployment, parameters)
    try:
        outcome = follow(api_url, flow_run, console)
    except KeyboardInterrupt:
        cancel(api_url, flow_run)
        raise
    _show(outcome, command, console)
    console.print(
        f"{api_url.removesuffix('/api')}/runs/flow-run/{flow_run}   {outcome.seconds:.0f} s", soft_wrap=True
    )
    return 0 if outcome.state == "COMPLETED" else 1


def _show(outcome: Outcome, command: str, console: Console) -> None:
    """Print the scores and the path of the report; for a failed run the stage, the cause and its log."""
    if outcome.state != "COMPLETED":
        console.print(failure(outcome, command), soft_wrap=True)
    elif outcome.record in RunRecords(store_uri()).names():
        record = RunRecords(store_uri()).read(outcome.record)
        reported = record.stages.get("report")
        if rows := scores_of(record):
            console.print(score_table(rows, reported.metrics if reported else {}))
        if reported:
            place = Store(store_uri()).describe(record.output("report", "report"))
            console.print(f"report: {place}/report.html", soft_wrap=True)


def failure(outcome: Outcome, command: str) -> Text:
    """Describe a run that did not complete: stage, cause, log, and the command that continues it."""
    lines = [(outcome.state.lower(), outcome.message)] if not outcome.failed else []
    for stage, cause in outcome.failed:
        log = home() / "logs" / outcome.record / f"{stage}.log"
        lines += [("stage", stage), ("why", cause or outcome.message)]
        lines += [("log", str(log))] if log.is_file() else []
    lines.append(("go on", f"{command}    (finished stages are reused)"))
    text = Text()
    for label, content in lines:
        text.append(f"{label + ':':<11}", style="red bold")
        text.append(f"{content}\n")
    text.rstrip()
    return text


def score_table(rows: list[Row], differences: dict[str, Value]) -> Table:
    """Show accuracies with 95 % intervals, and below them the changes by SFT and RL, in 80 columns."""
    table = Table(title="accuracy in % [95 % interval], problem by problem", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("set", "checkpoint", "accuracy", "code\nratio", "pass\nratio", "samples/\nproblems"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("set", "checkpoint") else "right")
    for row in rows:
        ratios = (_percent(row.get("code_ratio")), _percent(row.get("pass_ratio")))
        samples = f"{row.get('samples', '-')}/{row.get('problems', '-')}"
        accuracy = _interval(row, "accuracy", "low", "high")
        table.add_row(row["set"], row["checkpoint"], accuracy, *ratios, samples)
    for name in differences:
        if f"{name}/low" in differences:
            problem_set, _, pair = name.partition("/")
            shown = _interval(differences, name, f"{name}/low", f"{name}/high", "+")
            table.add_row(problem_set, pair.replace("-", " - "), shown, "", "", "", style="bold")
    return table


def _interval(values: Mapping[str, object], middle: str, low: str, high: str, sign: str = "") -> str:
    value, start, end = (_percent(values.get(name), sign) for name in (middle, low, high))
    return f"{value} [{start}, {end}]"


def _percent(value: object, sign: str = "") -> str:
    """Write a share as percent, to one digit."""
    return f"{100 * value:{sign}.1f}" if isinstance(value, float | int) else "-"


def read_parameters(arguments: list[str]) -> dict[str, object]:
    """Parse name=value arguments. A value is JSON if possible, else text. `overrides.<key>=value` changes a recipe."""
    parameters: dict[str, object] = {}
    overrides: dict[str, object] = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        if not separator:
            raise ValueError(f"parameter '{argument}': write name=value")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        if name.startswith("overrides."):
            overrides[name.removeprefix("overrides.")] = value
        else:
            parameters[name] = value
    if overrides:
        given = parameters.get("overrides", {})
        if not isinstance(given, dict):
            raise ValueError(f"parameter 'overrides={given}': write it as JSON, or overrides.<key>=value")
        parameters["overrides"] = given | overrides
    return parameters
