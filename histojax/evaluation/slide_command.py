"""`histojax evaluate slide`: how well patients are told apart by the features of their slides, in folds of patients."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from histojax.common import cli
from histojax.common.errors import UserError
from histojax.common.files import expanded, make_folder

HELP = """\
histojax evaluate slide: how well patients are told apart by the features of their slides

usage: histojax evaluate slide --features DIR --clini TABLE [--slides TABLE] --target COLUMN --out DIR [flags]
       histojax evaluate slide --apply HEAD|DIR --features DIR [--clini TABLE] [--slides TABLE] --out DIR
       (the same: python -m histojax.evaluate slide)

what goes in (csv, tsv or xlsx; titles in any case):
  --features DIR ...   feature files, a slide or bag each, in sub-folders too: of histojax extract, TRIDENT, CLAM (.pt,
                       too), STAMP, HistoBistro, or any .h5 with `features` or `feats` (tiles, width), float16 to
                       float64; coordinates are not needed. A file whose tiles say their patient (extract of a list
                       with patients) is a bag a patient
  --clini TABLE        a row a patient: PATIENT and the target. Columns of slides may be in it, too
  --slides TABLE       a row a slide: FILENAME (the feature file, with or without suffix and folder) and PATIENT.
                       Without it a file belongs to the patient of its name, or of the TCGA or CPTAC barcode in it
  --target COLUMN      what is predicted. Numbers and text are classes, in the order of numbers or names, the last of
                       two being the positive one; rows without a value are left out
  --classes A,B        the classes in this order; patients of others are left out
  --label-map A=X,B=X  values of the table and the class that each is; rows with others are left out
  --task T             classification (default), regression, or survival: --target is the time and --event COLUMN says
                       whether it happened then (1) or the patient was seen without (0)
  --slide-choice C     all (default): one bag a patient with the tiles of all slides; first: the first slide by name, as
                       HistoBistro takes one; each: a bag a slide, a patient's prediction is the mean over the slides
  --patient-column, --slide-column, --centre: titles that are not known by themselves

folds (patients, never slides or tiles):
  --folds N|FILE       5 (default): a fifth tests, a quarter of the others validates, both stratified; as published.
                       FILE.json: {"folds": [{"train": ["P1", ...], "validation": [...], "test": [...]}, ...]}
                       FILE.csv: patient,fold,part, a row a patient and fold, folds from 0, part train, validation or
                       test. Without validation a quarter of train becomes it. DIR/folds.json of a run is such a file:
                       use it for every encoder that is to be compared
  --seed N             of folds, heads and intervals (default 0)

models, trained as Wagner et al. 2023 published, one bag a step:
  --models A,B         mean (logistic regression of the mean tile, fitted exactly), transformer (Wagner et al.),
                       attention and gated_attention (Ilse et al.), transmil (Shao et al.); default mean,transformer
  --epochs 8  --learning-rate 2e-5  --weight-decay 2e-5  --validate-every 1000 (steps, at most a pass)
  --keep loss|auroc    which step's parameters are kept: by the validation part, never by the test
  --at-once N          processes that share the folds (default 1): one alone keeps few cores busy with small bags. The
                       predictions are the same; the same command on another machine joins in, too
  --max-tiles N        tiles of a bag that a training step sees, drawn anew each time (default 0: all)

more cohorts, doubts:
  --external NAME FEATURES CLINI [SLIDES]   judged by every fold's model; may be repeated
  --ssl SET ...        what the encoder was trained on (a run of histojax train, a list of patients, tiles): patients
                       and slides that it shares with the tests are refused, as are those of external cohorts that
                       are in training (--allow-leaks: said and gone on)
  --skip-bad           leave out feature files that are damaged or not finite, instead of stopping
  --draws N            bootstrap draws of patients for the 95 % intervals (default 1000; 0: none)
  --name TEXT          what tables call the features (default: the encoder's name)

--out DIR gets results.json, predictions.csv, scores.csv, report.html (open it), folds.json, left_out.csv,
heads/MODEL-fold0.safetensors and patient-preds/MODEL/split-0/patient-preds.csv (STAMP's shape). Killed at any moment,
the same command goes on after the last finished fold; with more --models or --external only those are done.

--apply HEAD|DIR       predict a new cohort with a head, or with all heads of an evaluation (of --models); weights that
                       HistoBistro published (.pth, .ckpt) are heads, too. With --clini it is judged, else predicted
                       only: patient-preds/MODEL/patient-preds.csv has the mean over the heads

what happens to odd input: labels without features, features without labels, empty bags and rows without a patient are
left out, counted and listed in left_out.csv; a bag of one tile is a bag. Refused are patients with two labels, a slide
of two patients, mixed encoders, numbers that are not finite (--skip-bad), a class with fewer patients than folds, and a
fold whose training lacks a class. A class that a test part lacks leaves that fold out of the scores that need it.

examples:
  histojax evaluate slide --features f/features_uni_v1 --clini TCGA_CLINI.xlsx --slides TCGA_SLIDE.csv \\
      --target isMSIH --classes nonMSIH,MSIH --external CPTAC g/features_uni_v1 CPTAC_CLINI.xlsx CPTAC_SLIDE.csv \\
      --out eval/msi_uni
  histojax evaluate slide --features bags --clini labels.csv --target label --folds folds.csv --models mean,attention \\
      --out eval/musk
  histojax evaluate slide --apply eval/msi_uni --models transformer --features new/features_uni_v1 --out eval/new
  histojax compare eval/msi_uni eval/msi_mine

exit codes:
  0 done, 2 bad input or a leak (one line on stderr)"""

COMMAND = "histojax evaluate slide"
TEXTS = ("clini", "slides", "target", "event", "out", "name", "patient_column", "slide_column", "centre", "apply")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (default: that of the process)."""
    return cli.run(COMMAND, HELP, argv, _main)


def _main(argv: Sequence[str]) -> int:
    values = _parse(argv)
    return _apply(values) if values.apply else _evaluate(values, argv)


def _parse(argv: Sequence[str]) -> Any:
    parser = cli.Arguments()
    parser.add_argument("--features", nargs="+", default=[])
    for name in TEXTS:
        parser.add_argument(f"--{name.replace('_', '-')}", default="")
    parser.add_argument("--task", default="", choices=["", "classification", "regression", "survival"])
    parser.add_argument("--slide-choice", default="all", choices=["all", "first", "each"])
    parser.add_argument("--keep", default="loss", choices=["loss", "auroc"])
    for name in ("classes", "label-map", "models"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--folds", default="5")
    parser.add_argument("--at-once", default="1")
    for name, whole in (("seed", 0), ("epochs", 8), ("validate-every", 1000), ("max-tiles", 0), ("draws", 1000)):
        parser.add_argument(f"--{name}", default=str(whole))
    for name in ("learning-rate", "weight-decay"):
        parser.add_argument(f"--{name}", type=float, default=2e-5)
    parser.add_argument("--external", nargs="+", action="append", default=[])
    parser.add_argument("--ssl", nargs="+", default=[])
    parser.add_argument("--allow-leaks", action="store_true")
    parser.add_argument("--skip-bad", action="store_true")
    values = parser.parse_args(argv)
    needed = ("features", "out") if values.apply else ("features", "clini", "target", "out")
    for name in needed:
        if not getattr(values, name):
            raise UserError(f"--{name} is missing (see --help)")
    for one in values.external:
        if len(one) not in (3, 4):
            raise UserError(f"--external {' '.join(one)}: expected NAME FEATURES CLINI [SLIDES]")
    return values


def _evaluate(values: Any, argv: Sequence[str]) -> int:
    settings, question = _settings(values), _question(values)
    own = _judge([*values.features], values.clini, values.slides, question, values)
    from dataclasses import replace

    from histojax.evaluation.slide_output import print_slides, write_slides
    from histojax.evaluation.slide_protocol import choose_folds, evaluate_slides
    from histojax.parallel.backend import start_backend

    start_backend()
    folds, notes = choose_folds(own.cohort, values.folds, cli.whole_number("--seed", values.seed, 0, 2**31 - 1))
    asked = replace(question, classes=own.cohort.classes, every_class=False)
    external = {one[0]: _judge([one[1]], one[2], (*one, "")[3], asked, values) for one in values.external}
    out = expanded(values.out)
    leaks = _leaks(values, own, external)
    facts = {"command": ["histojax", "evaluate", "slide", *argv], "notes": notes, "leakage": leaks}
    with _Telling() as told, _others(argv, cli.whole_number("--at-once", values.at_once, 1, 64) - 1):
        results = evaluate_slides(out, own, folds, settings, external, facts, told.tell)
    write_slides(out, results, own)
    print_slides(results)
    print(out / "report.html")
    return 0


@contextlib.contextmanager
def _others(argv: Sequence[str], count: int) -> Iterator[None]:
    """So many processes more that make the same evaluation meanwhile, each fold in one of them; silent ones."""
    at = list(argv).index("--at-once") if "--at-once" in argv else len(argv)
    same = [word for i, word in enumerate(argv) if i not in (at, at + 1) and not word.startswith("--at-once=")]
    command = [sys.executable, "-m", "histojax.evaluate", "slide", *same]
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    except BaseException:
        for process in started:
            process.terminate()
        raise
    finally:
        for process in started:
            process.wait()


def _apply(values: Any) -> int:
    from histojax.evaluation.slide_apply import apply_heads, asked_question, load_heads
    from histojax.evaluation.slide_output import PREDS, print_slides, write_preds, write_slides
    from histojax.parallel.backend import start_backend

    start_backend()
    heads = load_heads(values.apply, _names(values.models))
    question = asked_question(heads, _given(values) | {"every_class": False}, bool(values.clini))
    judge = _judge([*values.features], values.clini, values.slides, question, values)
    predictions = apply_heads(heads, judge, "test")
    out = expanded(values.out)
    make_folder(out)
    if not values.clini:
        write_preds(out / PREDS, predictions, question.task, question.target, question.classes, truth=False)
        print(f"{out / PREDS}: predictions of {len(judge.cohort.units)} bags by {len(heads)} heads")
        return 0
    from histojax.evaluation.slide_protocol import SlideSettings, results_of

    settings = SlideSettings(draws=_draws(values), name=values.name)
    facts = {"heads": [str(one.path) for one in heads]}
    results = results_of(judge, settings, predictions, facts)
    write_slides(out, results, judge)
    print_slides(results)
    print(out / "report.html")
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _given(values: Any) -> dict[str, Any]:
    """The arguments of a question that the flags tell."""
    pairs = [part.partition("=") for part in _names(values.label_map)]
    if any(not sign for _, sign, _ in pairs):
        raise UserError(f"--label-map {values.label_map}: expected VALUE=CLASS,VALUE=CLASS ...")
    return {
        "target": values.target,
        "task": values.task or ("survival" if values.event else ""),
        "event": values.event,
        "classes": _names(values.classes),
        "label_map": {value.strip(): name.strip() for value, _, name in pairs},
        "patient": values.patient_column,
        "slide": values.slide_column,
        "centre": values.centre,
    }


def _question(values: Any) -> Any:
    from histojax.evaluation.cohort_tables import Question

    return Question(**{key: value for key, value in _given(values).items() if value})


def _draws(values: Any) -> int:
    return cli.whole_number("--draws", values.draws, 0, 1_000_000)


def _settings(values: Any) -> Any:
    from histojax.evaluation.mil.settings import TrainSettings
    from histojax.evaluation.slide_protocol import SlideSettings

    if values.learning_rate <= 0 or values.weight_decay < 0:
        raise UserError("--learning-rate must be above 0 and --weight-decay 0 or more")
    training = TrainSettings(
        epochs=cli.whole_number("--epochs", values.epochs, 1, 100_000),
        learning_rate=values.learning_rate,
        weight_decay=values.weight_decay,
        validate_every=cli.whole_number("--validate-every", values.validate_every, 1, 10**9),
        keep=values.keep,
        seed=cli.whole_number("--seed", values.seed, 0, 2**31 - 1),
        max_tiles=cli.whole_number("--max-tiles", values.max_tiles, 0, 10**9),
    )
    models = _names(values.models)
    return SlideSettings(
        **({"models": models} if models else {}), training=training, draws=_draws(values), name=values.name
    )


def _judge(features: Sequence[str], clini: str, slides: str, question: Any, values: Any) -> Any:
    """A cohort, read once; who is left out is said."""
    from histojax.common.progress import Progress
    from histojax.evaluation.cohort import read_cohort, read_means, read_unlabelled
    from histojax.evaluation.slide_folds import Judge

    if clini:
        cohort = read_cohort(features, clini, slides or None, question, values.slide_choice, values.skip_bad)
    else:
        cohort = read_unlabelled(features, slides or None, question, values.slide_choice, values.skip_bad)
    print(f"{clini or ', '.join(features)}: {cohort.summary()}", file=sys.stderr)
    progress, before = Progress(len(cohort.bags), unit="bag", items="tiles"), 0

    def tell(bags: int, tiles: int) -> None:
        nonlocal before
        progress.update(bags, tiles - before)
        before = tiles

    cohort, means = read_means(cohort, values.skip_bad, tell)
    progress.close()
    return Judge(cohort, means)


def _leaks(values: Any, own: Any, external: Mapping[str, Any]) -> Any:
    """What tests share with training and with the encoder's own tiles; raises UserError unless it is allowed."""
    from histojax.evaluation.leakage import Cases, Leaks, check_leaks, refuse_leaks
    from histojax.evaluation.leakage_sources import ssl_cases
    from histojax.evaluation.provenance import features_facts

    def cases(name: str, judge: Any) -> Any:
        return Cases(name, sorted(set(judge.cohort.patients.tolist())), judge.cohort.files)

    ssl, notes = [], []
    for spec in values.ssl:
        found, said = ssl_cases(spec)
        ssl += found
        notes += said
    encoder = str(features_facts(own.cohort.headers).get("encoder") or "")
    parts = [
        check_leaks(None, [cases("test", own)], ssl, encoder),
        check_leaks(cases("training", own), [cases(name, judge) for name, judge in external.items()], ssl, encoder),
    ]
    leaks = Leaks(
        tuple(one for part in parts for one in part.shared),
        tuple(dict.fromkeys(s for part in parts for s in part.unchecked)),
    )
    for sentence in [*refuse_leaks(leaks, values.allow_leaks), *notes]:
        print(f"leakage: {sentence}", file=sys.stderr)
    return leaks.facts(values.allow_leaks)


class _Telling:
    """The progress of all folds as one line; a line of its own when the next one begins."""

    def __init__(self) -> None:
        self.progress: Any = None
        self.what = ""

    def __enter__(self) -> _Telling:
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.close()

    def tell(self, what: str, done: int, total: int, values: Mapping[str, float]) -> None:
        """See `slide_protocol.Tell`."""
        from histojax.common.progress import Progress

        if self.progress is None:
            self.progress = Progress(total, unit="step", items="bags")
        if what != self.what:
            self.progress.note(what)
            self.what = what
        self.progress.update(done, values=values)


if __name__ == "__main__":
    sys.exit(main())
