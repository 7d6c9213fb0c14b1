"""The commands, thin: options in, one function called, tables or JSON out, and the exit code."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cvxlayers._version import __version__
from cvxlayers.cli.terminal import INVALID, errors, progress

__all__ = ["app"]

# What a command needs is imported inside it, so that --help answers without loading CVXPY.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Policy(StrEnum):
    """What becomes of batch elements without a verified solution."""

    RAISE = "raise"
    NAN = "nan"
    ZERO_GRAD = "zero_grad"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cvxlayers {__version__}")
        raise typer.Exit


@app.callback()
def cvxlayers(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Convex optimization problems as differentiable, batched layers: check them, solve them, test the installation.

    Exit codes: 0 valid, 1 invalid (not DCP or DPP, a failed check, no solution), 2 misuse (no such file, bad option).
    """


FileArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE[:NAME]",
        help="A Python file with module-level cvxpy.Problem objects, and the name of one. Loading "
        "[bold]runs the file[/] (with __name__ other than '__main__'), so name only files that you trust.",
    ),
]
SolverOption = Annotated[
    str | None,
    typer.Option(
        "--solver", help="Solver, by name (see `cvxlayers doctor`). Default: the first that takes the problem."
    ),
]
GpOption = Annotated[bool, typer.Option("--gp", help="Treat the problem as log-log convex (DGP).")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and nothing else.")]


@app.command()
def check(
    file: FileArgument,
    gp: GpOption = False,
    solver: SolverOption = None,
    gradients: Annotated[
        bool,
        typer.Option("--gradcheck", help="Compare the derivative with finite differences at some parameter values."),
    ] = False,
    params: Annotated[
        Path | None,
        typer.Option("--params", metavar="P.npz", help="Values for --gradcheck: one array per parameter name."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="How many values --gradcheck takes. Default: 3, or all of --params."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the random values and directions.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="OUT.png", help="Draw P and A, coloured by the parameter behind each nonzero."),
    ] = None,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Can these problems become layers? Curvature, DPP, cones, sizes, solver, memory; on request, gradients.

    Without NAME, every problem of the file is checked.

    [bold]Examples[/]

        cvxlayers check model.py

        cvxlayers check model.py:problem --gradcheck --samples 5

        cvxlayers check model.py:problem --plot structure.png
    """
    if not gradients and (params is not None or samples is not None):
        raise typer.BadParameter("--params and --samples are for --gradcheck: add it, or leave them out.")
    with errors(debug):
        from cvxlayers.cli import render
        from cvxlayers.cli.file_report import GradientOptions, examine_file

        wanted = GradientOptions(params, samples, seed) if gradients else None
        report = examine_file(file, gp, solver, wanted, plot)
        if json:
            typer.echo(render.as_json(report))
        else:
            render.show_file_report(report)
        raise typer.Exit(0 if report.valid else INVALID)


@app.command()
def solve(
    file: FileArgument,
    params: Annotated[
        Path,
        typer.Option("--params", metavar="P.npz", help="Values: one array per parameter name, batch dimensions first."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="X.npz", help="Where the solutions go.")],
    solver: SolverOption = None,
    gp: GpOption = False,
    on_failure: Annotated[
        Policy,
        typer.Option(
            "--on-failure", help="Elements without a verified solution: an error, NaN, or the best point found."
        ),
    ] = Policy.RAISE,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Elements solved at a time.")] = 256,
    broadcast: Annotated[
        bool, typer.Option("--broadcast", help="Combine batch dimensions beyond those of every parameter.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Solve a problem for all parameter values in a file.

    X.npz has one array for each variable, and status, objective, engine, iterations and residual_primal, _dual, _gap
    and _cone, one entry per batch element. It is written in one step, and only when all is solved.

    [bold]Examples[/]

        cvxlayers solve model.py:problem --params p.npz --out x.npz

        cvxlayers solve model.py --params p.npz --out x.npz --on-failure nan --batch-size 1000
    """
    with errors(debug):
        from cvxlayers.cli import render
        from cvxlayers.cli.solve import solve_file

        results = solve_file(file, params, out, solver, gp, on_failure.value, batch_size, broadcast)
        render.show_results(results, str(out))


@app.command("compile")
def compile_file(
    file: FileArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="X.cvxl", help="Where the compiled problem goes.")],
    solver: SolverOption = None,
    gp: GpOption = False,
    debug: DebugOption = False,
) -> None:
    """Compile a problem into a file that `cvxlayers.load` reads without CVXPY and without running anybody's code.

    The form is that which the solver takes: with the objective quadratic, or turned into cones. X.cvxl is written in
    one step.

    [bold]Example[/]

        cvxlayers compile model.py:problem -o layer.cvxl
    """
    with errors(debug):
        from cvxlayers.cli import render
        from cvxlayers.cli.compile import compile_to

        compiled = compile_to(file, out, solver, gp)
        given = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in compiled.parameters) or "no parameters"
        returned = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in compiled.outputs)
        typer.echo(f"{out}: {given} -> {returned}", err=render.takes_stdout(str(out)))


@app.command()
def doctor(
    warm: Annotated[
        bool, typer.Option("--warm", help="Only compile the kernels of IPM, or load them, for all later processes.")
    ] = False,
    json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """What is installed here, and does each solver give right solutions and gradients?

    Every installed solver is tested on one small problem for each kind of cone that it takes, beside `problem.solve`
    and finite differences of it. Exit code 1 if one fails.
    """
    with errors(debug):
        from cvxlayers.cli import render
        from cvxlayers.cli.doctor import diagnose, warm_up

        if warm:
            with progress("compiling the kernels of IPM", None):
                found = warm_up()
            if json:
                typer.echo(render.as_json(found))
            else:
                render.show_warmth(found)
            raise typer.Exit(0)
        with progress("testing the solvers", None) as advance:
            diagnosis = diagnose(lambda: advance(1))
        if json:
            typer.echo(render.as_json(diagnosis))
        else:
            render.show_diagnosis(diagnosis)
        raise typer.Exit(0 if diagnosis.healthy else INVALID)
