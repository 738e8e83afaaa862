"""What a flow run shows in Prefect: progress that is told seldom, the summary with its picture, rejected pairs."""

import base64
import io
import math
import re
from uuid import UUID

import pytest
from httpx import ConnectError
from PIL import Image
from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

import flows.orchestration.artifacts
from flows.orchestration.artifacts import ProgressArtifact, markdown, pictures, rejected_pairs
from flows.progress import LineReporter
from flows.summary import Summary, Unmatched, summarize
from flows.tracking.tracker import description
from levelmatch_core.pipeline import Request, run
from levelmatch_core.products.verdict import Residual
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore


def shown_progress(period):
    """Return the progress artifacts of a flow run with one step of four jobs: (key, percent, words)."""

    @flow
    def trial():
        with ProgressArtifact(LineReporter(), "Orion bar", period).step("f770w: cutouts", 4) as advance:
            for _ in range(3):
                advance(1)
            before_the_end = found(runtime.flow_run.id)
            advance(1)
        return before_the_end, found(runtime.flow_run.id)

    return trial()


def found(flow_run):
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(str(flow_run))]))
    with get_client(sync_client=True) as client:
        read = client.read_artifacts(artifact_filter=chosen)
    return [(each.key, float(each.data), each.description) for each in read if each.type == "progress"]


@pytest.mark.usefixtures("home")
def test_a_long_step_is_one_progress_artifact():
    before, after = shown_progress(0.0)
    assert before == [("orion-bar-progress", 75.0, "f770w: cutouts: 3 of 4")]
    assert after == [("orion-bar-progress", 100.0, "f770w: cutouts: 4 of 4")]


@pytest.mark.usefixtures("home")
def test_a_short_step_is_none():
    assert shown_progress(60.0) == ([], [])


def test_a_server_that_does_not_answer_costs_the_progress_only(monkeypatch, caplog):
    def refused(**_options):
        message = "no server"
        raise ConnectError(message)

    monkeypatch.setattr(flows.orchestration.artifacts, "create_progress_artifact", refused)
    with ProgressArtifact(LineReporter(), "p", 0.0).step("cutouts", 3) as advance:
        for _ in range(3):
            advance(1)
    assert sum("no more progress is reported" in text for text in caplog.messages) == 1


@pytest.fixture(scope="module")
def result(small_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    rules = folder / "pairs.csv"
    rules.write_text("first,second,action\njw01234001001_02101_mirimage,jw01234002001_02101_mirimage,forbid\n")
    settings = MatchSettings(pairs=str(rules), figures="none")
    request = Request(inputs=(small_program,), output=folder / "out", settings=settings, program="Orion bar")
    return run(request, CutoutStore(folder / "store"), PlainRunner)


def test_the_summary_shows_the_mosaic_before_and_after(result):
    text = markdown(summarize(result, peak_memory=1.0), pictures(result))
    shown = re.search(r"!\[f770w before and after\]\(data:image/png;base64,([^)]+)\)", text)
    with Image.open(io.BytesIO(base64.b64decode(shown[1]))) as picture:
        assert picture.width > 2.2 * picture.height
        assert picture.width <= 3 * flows.orchestration.artifacts.SIDE + 30
        assert len(picture.getcolors(picture.width * picture.height)) > 20
    assert len(text) < 500_000


def test_rejected_pairs_come_with_their_reasons(result):
    rows = rejected_pairs(result)
    assert rows
    assert {row["reason"] for row in rows} == {"forbidden by the user"}
    assert all(math.isfinite(row[name]) for row in rows for name in ("difference", "scatter", "left after", "pixels"))
    assert {row["unit"] for row in rows} == {"MJy/sr"}


HOSTILE = "![x](http://127.0.0.1:9/i.png) <img src=x onerror=alert(1)> | # `a` **b** \x1b[2J\nnext"
PROBLEM = Unmatched(name=HOSTILE, status="failed", reason=HOSTILE)


def test_hostile_names_stay_text():
    unit = Residual(field=HOSTILE, unit=HOSTILE, before=1.0, after=0.5, used=1, rejected={}, components=1)
    summary = Summary(
        program=HOSTILE,
        band=HOSTILE,
        output=f"/out/{HOSTILE}",
        changed=True,
        complete=True,
        counts={"matched": 2},
        residuals=(unit,),
        fields=(),
        partial=False,
        problems=(),
        notes=(HOSTILE,),
        seconds=1.0,
        peak_memory=1.0,
    )
    for text in (markdown(summary), description(summary.model_copy(update={"problems": (PROBLEM,)}))):
        outside = re.sub(r"(`+).*?[^`]\1(?!`)", "", text)  # without code, which is shown as it is
        assert not re.search(r"(?<!\\)(!\[|<img|\]\()", outside), outside
        assert "\x1b" not in text
        assert "\nnext" not in text
    rows = [line for line in markdown(summary).splitlines() if line.startswith("| ")]
    borders = {len(re.findall(r"(?<!\\)\|", row)) for row in rows[:2]}
    assert borders == {8}
