"""The commands, and the entry point that turns what went wrong into one line."""

import atexit
import errno
import gc
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from chronosae.cli.exit_codes import INTERRUPTED, USER_ERROR
from chronosae.config import UserError
from chronosae.version import __version__

FOLDER = click.Path(path_type=Path)


def _load_plugins(context: click.Context, option: click.Parameter, plugins: tuple[str, ...]) -> None:
    from chronosae.config.registry import load_plugin

    for plugin in plugins:
        load_plugin(plugin)


def with_plugins(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--plugin`, which makes parts of one's own known by name before the command begins."""
    return click.option(
        "--plugin",
        multiple=True,
        metavar="FILE",
        callback=_load_plugins,
        expose_value=False,
        help="A Python file (or module) with parts of your own; its code runs. May be repeated.",
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="chronosae")
def cli() -> None:
    """Train sequence-aware sparse autoencoders on language models, and compare them honestly."""
    # Text goes through the tokenizer in the thread that needs it; its own pool would fight over the cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@cli.command()
@click.argument("config", type=FOLDER)
@click.option(
    "--out-dir",
    "--out_dir",
    type=FOLDER,
    help="Folder for the run, new or empty; runs/NAME when absent, NAME from the configuration.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key: --set saes.topk.k=8")
@click.option("--resume", is_flag=True, help="Continue the run in --out-dir, bit-equally.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out-dir.")
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration and the plan; do nothing.")
@with_plugins
def run(
    config: Path, out_dir: Path | None, overrides: tuple[str, ...], resume: bool, overwrite: bool, dry_run: bool
) -> int:
    """Train and evaluate what CONFIG (a YAML file) describes."""
    from chronosae.config import load_config, to_yaml

    cfg = load_config(config, overrides)
    if dry_run:
        from chronosae.cli.display import quiet_libraries

        quiet_libraries()
        from chronosae.pipeline import prepare
        from chronosae.pipeline.evaluations import choose, missing, missing_lines

        prepared = prepare(cfg, dry=True)
        lacks = missing_lines(missing(choose(cfg), cfg, prepared.info, out_dir or Path(), {}))
        lines = [*prepared.plan.lines(), *(f"missing: {line}" for line in lacks)]
        click.echo(to_yaml(cfg) + "\n# plan\n" + "\n".join(f"#   {line}" for line in lines))
        return 0
    from chronosae.cli.display import run_with_display

    return run_with_display(cfg, out_dir or Path("runs") / _file_name(cfg.name), resume=resume, overwrite=overwrite)


def _file_name(name: str) -> str:
    """A run's name as the name of a folder: no separators, no leading dot."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", name).strip(".-") or "run"


@cli.command("eval")
@click.argument("run_folder", metavar="RUN", type=FOLDER, required=False)
@click.option("--evals", default="all", show_default=True, help="all, or names: core,sparse_probing,unlearning ...")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="--set evals.sparse_probing.k=[1,5]")
@click.option("--sae", "saes", multiple=True, metavar="NAME", help="Only this autoencoder; may be repeated.")
@click.option("--device", help="auto, cpu, cuda ...; the run's own when absent.")
@click.option("--cache-dir", type=FOLDER, help="Keep activations here, for further evaluations of the same data.")
@click.option("--preflight", is_flag=True, help="Only say what is missing, and how to get it.")
@click.option("--options", "explain", metavar="NAME", help="Print the options of one evaluation; do nothing else.")
@with_plugins
def evaluate(
    run_folder: Path | None,
    evals: str,
    overrides: tuple[str, ...],
    saes: tuple[str, ...],
    device: str | None,
    cache_dir: Path | None,
    preflight: bool,
    explain: str | None,
) -> int:
    """Evaluate the autoencoders of RUN (a finished run's folder).

    With `--evals all`, an evaluation that lacks something is left out and said; one that is named must be able to run.
    """
    from chronosae.cli.evaluating import evaluate_with_display, print_options

    if explain is not None:
        print_options(explain)
        return 0
    if run_folder is None:
        raise click.UsageError("missing argument 'RUN'")
    return evaluate_with_display(run_folder, evals, overrides, saes, device, cache_dir, preflight)


@cli.command()
@click.argument("runs", type=FOLDER, nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--baseline", metavar="NAME", help="Test the others against this one; each run's first when absent.")
@with_plugins
def compare(runs: tuple[Path, ...], as_json: bool, as_csv: bool, baseline: str | None) -> None:
    """One table of all autoencoders in RUNS (run folders): means, 95 % intervals, what isn't significant marked."""
    from chronosae import report

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    table = report.comparison(report.read_runs(runs), baseline)
    if as_json or as_csv:
        click.echo((report.to_json if as_json else report.to_csv)(table).rstrip("\n"))
    else:
        report.print_table(table)


@cli.command()
@click.argument("runs", type=FOLDER, nargs=-1, required=True)
@click.option("--out", type=FOLDER, default=Path("figures"), show_default=True, help="Folder for the figures.")
@click.option("--format", "fmt", type=click.Choice(["png", "svg"]), default="png", show_default=True)
def plot(runs: tuple[Path, ...], out: Path, fmt: str) -> None:
    """Draw the comparison of RUNS from their folders alone."""
    from chronosae import report

    for path in report.plot_comparison(report.read_runs(runs), out, fmt):
        click.echo(str(path))


@cli.command("config")
@click.option("--markdown", is_flag=True, help="As the page docs/configuration.md.")
@with_plugins
def config_reference(markdown: bool) -> None:
    """Every configuration key with its type, default and meaning."""
    from chronosae.config.reference import as_markdown, as_text

    click.echo(as_markdown() if markdown else as_text())


@cli.command("list")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_plugins
def list_parts(name: str | None, as_json: bool) -> None:
    """Everything that has a name: architectures (presets), parts, corpora, evaluations ...; or the options of NAME.

    Where two sorts share a name, NAME may be told with its sort: activation.topk.
    """
    from chronosae.cli.catalogue import print_all, print_one

    print_all(as_json) if name is None else print_one(name, as_json)


@cli.group()
def world() -> None:
    """The embedded world: its text, its questions, its language model."""


@world.command("train")
@click.option("--out-dir", "--out_dir", type=FOLDER, required=True, help="Folder for the trained model; must be new.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Cut the recipe to this many minutes.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...")
def world_train(out_dir: Path, seed: int, minutes: float | None, device: str) -> None:
    """Train the embedded language model anew (under an hour on two cores)."""
    from chronosae.world import train_world

    train_world(out_dir, seed=seed, minutes=minutes, device=device)


@world.command("score")
@click.argument("folder", type=FOLDER, required=False)
@click.option("--limit", type=click.IntRange(min=1), help="Questions a subject; all when absent.")
def world_score(folder: Path | None, limit: int | None) -> None:
    """How well the model (the embedded one, or the one in FOLDER) knows its world."""
    import json

    from chronosae.world import score_world

    click.echo(json.dumps(score_world(folder, limit=limit), indent=2))


@world.command("show")
@click.option("--kind", help="story, report, dialogue, encyclopaedia, form ...")
@click.option("--count", type=click.IntRange(min=1), default=3, show_default=True)
def world_show(kind: str | None, count: int) -> None:
    """Print some of the world's text."""
    from chronosae.world import sample_documents

    for document in sample_documents(kind=kind, n=count):
        click.echo(f"--- {document.kind}, {document.subject or 'no subject'} ---\n{document.text}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 (no usable result), 2 (bad input) or 130 (Ctrl-C)."""
    # The process is about to end: looking for garbage in all that torch and transformers made takes it a second.
    atexit.register(gc.freeze)
    try:
        result = cli.main(args=None if argv is None else list(argv), prog_name="chronosae", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _fail(error.format_message())
    except UserError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; a run keeps its last checkpoint and goes on with --resume", INTERRUPTED)
    except MemoryError as error:
        return _fail(f"out of memory ({error}); lower training.batch_tokens, activations.harvest_sequences or d_sae")
    except RuntimeError as error:
        # Torch's own out-of-memory errors; told by name, so that torch needn't be imported here.
        if type(error).__name__ != "OutOfMemoryError" and "allocate memory" not in str(error):
            raise
        return _fail(f"out of memory; lower training.batch_tokens, activations.harvest_sequences or d_sae ({error})")
    except BrokenPipeError:
        # The reader of our output (`head`) left. Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        from chronosae.config.files import explain_os_error

        return _fail(f"{error.filename or 'output'}: {explain_os_error(error)}")


def _fail(message: str, code: int = USER_ERROR) -> int:
    click.echo("error: " + " ".join(message.split()), err=True)
    return code
