import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.jobs.products import ReportJob
from levelmatch_core.matching.corrections import Status
from levelmatch_core.matching.measure.pair_fit import Difference
from levelmatch_core.pipeline import Request
from levelmatch_core.products.drawings.svg import LogScale, Svg
from levelmatch_core.products.report.images import before_and_after, thumbnail
from levelmatch_core.products.report.page import FieldImages, choose_thumbnails, write_report
from levelmatch_core.products.runrecord import RunRecord, record_of
from levelmatch_core.settings import MatchSettings
from tests.browser import chromium


@pytest.fixture
def mosaic(tmp_path: Path, make: Any) -> Path:
    image = np.random.default_rng(4).normal(5, 0.1, (60, 80)).astype("f4")
    image[:10, :10] = np.nan
    header = fits.Header(make.grid.header_cards(2000, 3000))
    stepped = image + np.where(np.arange(80) > 40, 3, 0).astype("f4")
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, header, name="SCI"), fits.ImageHDU(stepped, header, name="BEFORE")]
    fits.HDUList(hdus).writeto(tmp_path / "mosaic.fits")
    return tmp_path / "mosaic.fits"


def record(match: Any, make: Any, **settings: object) -> RunRecord:
    return record_of([match], MatchSettings(**settings), "<a program & co>", make.inventory(match), [])


def thumbnails(match: Any) -> dict[tuple[str, str, str, str], str]:
    data = np.random.default_rng(1).normal(3, 0.1, (20, 30))
    image = Difference(data, np.isfinite(data), 0, 0, int(np.isfinite(data).sum()))
    return {
        (match.field.name, stage.stage, pair.fit.first, pair.fit.second): thumbnail(image, pair.fit)
        for stage, pair in choose_thumbnails(match)
    }


def write(
    path: Path, match: Any, make: Any, mosaic: Path | None = None, level_error: Path | None = None, **settings: object
) -> str:
    mosaics, level_errors = ({match.field.name: file} if file else {} for file in (mosaic, level_error))
    images = FieldImages(mosaics, level_errors, thumbnails(match))
    write_report(path, record(match, make, **settings), [match], images)
    return path.read_text(encoding="utf-8")


def browse(path: Path, width: int) -> SimpleNamespace:
    """Open the page in headless Chromium; return what a person would see of it."""
    told: list[str] = []
    asked: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 844})
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        seen = SimpleNamespace(
            wide=page.evaluate("document.documentElement.scrollWidth"),
            verdict=page.inner_text("#verdict"),
            images=page.evaluate("[...document.images].map(i => i.naturalWidth)"),
        )
        page.locator("circle.after").first.hover()
        seen.tip = page.inner_text("#tip")
        page.locator("input[type=range]").fill("80")
        at = "document.querySelector('.compare').style.getPropertyValue('--at')"
        seen.slid = page.evaluate(at)
        page.get_by_role("button", name="Blink").click()
        seen.blinked = page.evaluate(at)
        page.wait_for_function(f"{at} === '0%'", timeout=5000)
    seen.told, seen.asked = told, [url for url in asked if not url.startswith("data:")]
    return seen


@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_it_without_complaint_or_network(make: Any, tmp_path: Path, mosaic: Path, width: int) -> None:
    path = tmp_path / "report.html"
    match = make.match(planes=True, history=True)
    write(path, match, make, mosaic)
    seen = browse(path, width)
    assert seen.told == []
    assert seen.asked == [path.as_uri()]
    assert seen.wide <= width
    assert "6 of 6 exposures are matched" in seen.verdict
    assert len(seen.images) == 4  # before, after, what was changed; the thumbnail of a rejected pair
    assert min(seen.images) > 0
    assert "pixels" in seen.tip
    assert seen.slid == "80%"
    assert seen.blinked == "100%"


def test_every_section_is_there_and_the_bytes_are_the_same(make: Any, tmp_path: Path, mosaic: Path) -> None:
    match = make.match(history=True)
    text = write(tmp_path / "a.html", match, make, mosaic, sigma=4.0)
    again = write(tmp_path / "b.html", match, make, mosaic, sigma=4.0)
    assert text == again
    for title in ("Mosaic before and after", "Seams", "Delta matrix", "Rejected pairs", "Corrections", "Components"):
        assert title in text
    assert "&lt;a program &amp; co&gt;" in text
    assert re.search(r'class="changed"><td><code>sigma</code><td>4.0', text)
    assert "rms too high" in text
    assert "most usable pairs" in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert str(tmp_path) not in text
    assert text.count("<svg") == 8  # outlines (twice), sky, seams, two matrices, convergence, corrections


def test_the_corrections_are_those_of_the_tables(make: Any, tmp_path: Path) -> None:
    match = make.match()
    text = write(tmp_path / "a.html", match, make)
    for correction in match.corrections:
        assert f'<td class="n">{correction.total.level:.6g}<td' in text


def test_what_could_not_be_tied_is_named_with_its_reason(make: Any, tmp_path: Path) -> None:
    match = make.match(2, 1, reject=1)
    untied = match.corrections[1].model_copy(update={"status": Status.UNTIED})
    match = match.model_copy(update={"corrections": (match.corrections[0], untied)})
    text = write(tmp_path / "a.html", match, make)
    assert "verdict trouble" in text
    assert "every pair with it was rejected: rms too high (1)" in text


def test_a_lone_exposure_has_a_report(make: Any, tmp_path: Path) -> None:
    text = write(tmp_path / "a.html", make.match(1, 1), make)
    assert "None: every measured pair was used." in text


@pytest.mark.parametrize(("instrument", "named"), [("miri", True), ("nircam", True), ("generic", False)])
def test_the_level_3_call_is_told_where_there_is_one(make: Any, tmp_path: Path, instrument: str, named: bool) -> None:
    match = make.match()
    match = match.model_copy(update={"field": match.field.model_copy(update={"instrument": instrument})})
    text = write(tmp_path / "a.html", match, make)
    assert ("--steps.skymatch.skip=true" in text) is named


def test_before_and_after_share_the_stretch_and_keep_what_is_missing(mosaic: Path) -> None:
    found = before_and_after(mosaic)
    assert (found.width, found.height) == (80, 60)
    assert found.before != found.after
    assert found.low < 0 < found.high < 1  # the step of 3 is not in the stretch of the image after


def test_the_change_is_shown_with_the_outlines_of_what_was_matched(make: Any, tmp_path: Path, mosaic: Path) -> None:
    match = make.match()
    found = before_and_after(mosaic, match)
    assert found.change.startswith("data:image/png;base64,")
    assert len(found.outlines) == len(match.stages[-1].members)
    assert found.limit == pytest.approx(3, abs=0.1)
    text = write(tmp_path / "a.html", match, make, mosaic)
    assert text.count("<polygon") == 2 * len(found.outlines)
    assert 'alt="mosaic before minus after"' in text


def test_files_without_a_unit_are_told_of(make: Any, tmp_path: Path) -> None:
    match = make.match()
    assert f"unit {make.unit}" in write(tmp_path / "a.html", match, make)
    match = match.model_copy(update={"field": match.field.model_copy(update={"unit": ""})})
    assert "the files name no unit (BUNIT)" in write(tmp_path / "b.html", match, make)


def test_the_title_is_the_programs_or_the_folders_name(tmp_path: Path) -> None:
    (tmp_path / "m17").mkdir()
    files = tuple(tmp_path / "m17" / f"{name}.fits" for name in "ab")
    assert Request(inputs=(tmp_path / "m17",), output=tmp_path).title == "m17"
    assert Request(inputs=files, output=tmp_path).title == "m17"
    assert Request(inputs=files, output=tmp_path, program="orion").title == "orion"
    assert Request(inputs=(tmp_path / "levelmatch-x1" / "image001.fits",), output=tmp_path).title == "levelmatch"


def test_the_job_depends_on_the_mosaic_and_not_on_where_files_lie(make: Any) -> None:
    match = make.match()
    job = ReportJob(
        label="p",
        exposures=(),
        settings=MatchSettings(),
        record=record(match, make),
        matches=(match,),
        mosaics={},
        level_errors={},
    )
    moved = match.field.exposures[0].model_copy(update={"path": Path("/elsewhere/a.fits")})
    field = match.field.model_copy(update={"exposures": (moved, *match.field.exposures[1:])})
    assert job.model_copy(update={"matches": (match.model_copy(update={"field": field}),)}).key() == job.key()
    solved = match.stages[0].model_copy(update={"stage": "another"})
    other = match.model_copy(update={"stages": (solved, *match.stages[1:])})
    assert job.model_copy(update={"matches": (other,)}).key() != job.key()
    file = {"name": "mosaic.fits", "sha256": hashlib.sha256(b"x").hexdigest()}
    assert ReportJob.from_json(job.to_json() | {"mosaics": {"f": file}}).key() != job.key()
    json.dumps(job.to_json())


def test_a_scale_keeps_what_is_below_it_at_its_end() -> None:
    scale = LogScale(0.01, 100, 200, 0)
    assert scale(0) == scale(1e-9) == 200
    assert scale(1e9) == 0
    assert scale.ticks == pytest.approx([0.01, 0.1, 1, 10, 100])


def test_words_in_drawings_are_escaped() -> None:
    drawing = Svg(10, 'a "label"')
    drawing.add("text", "<b>", tip='"x" & y', x=1.234567)
    text = drawing.in_page()
    assert "&lt;b&gt;" in text
    assert 'data-tip="&#34;x&#34; &amp; y"' in text
    assert 'x="1.23"' in text
