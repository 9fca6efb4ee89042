"""The page in a real browser: opened from a file with the network off."""

import dataclasses
import os
import random

import pytest

from kaggle_runner.lab.vary import read_vary
from kaggle_runner.report.analysis.analysis import analyse
from kaggle_runner.report.analysis.answers import Asked
from kaggle_runner.report.lab.write import write_study_page
from kaggle_runner.report.page import page as page_of
from kaggle_runner.report.style import value_names
from kaggle_runner.report.write import write_page
from kaggle_runner.study.journal import read_study
from kaggle_runner.study.trial import Status
from tests.made_studies import LEARNING_RATE, Made, loss_curve, write_mixed_study, write_study
from tests.standins.chromium import Chromium, find_chromium
from tests.test_one_at_a_time import FILE, journal

MARKUP = '<img src=x onerror="window.hacked=1"><b>name</b>'
DRAWN = "document.body && document.body.dataset.drawn === 'yes'"
VIEWS = [(width, dark) for width in (390, 768, 1440, 1920) for dark in (False, True)]

HIDDEN = """[...document.querySelectorAll('.plot')].flatMap((place) => {
    if (place.closest('details:not([open])')) return [];
    const box = (one) => one.getBoundingClientRect(), layout = place._fullLayout, found = [];
    const words = [...place.querySelectorAll('.annotation-text-g, .shapelayer text')].map(box);
    const marks = [...place.querySelectorAll('.scatterlayer .point')].map(box);
    const meet = (a, b) => a.left < b.right && a.right > b.left && a.top < b.bottom && a.bottom > b.top;
    if (marks.some((mark) => words.some((word) => meet(mark, word)))) found.push('a mark');
    for (const side of ['x', 'y']) {
        const names = (layout[side + 'axis'].ticktext || []).map((name) => name.replaceAll('<br>', ''));
        const seen = [...place.querySelectorAll(`.${side}axislayer-above text`)].filter((one) => box(one).width
            && getComputedStyle(one).display !== 'none' && getComputedStyle(one).opacity !== '0'
            && box(one).right <= innerWidth + 1 && box(one).left >= box(place).left - 1).map((one) => one.textContent);
        found.push(...names.filter((name) => !seen.includes(name)));
    }
    return found.map((what) => [place.id, what]);
})"""
"""What words of a plot hide, and the names along its axes that are not seen."""

pytestmark = pytest.mark.skipif(find_chromium() is None and not os.environ.get("CI"),
                                reason="no Chromium on PATH: apt-get install chromium")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    directory = write_mixed_study(tmp_path_factory.mktemp("page") / "study", 30)
    return write_page([directory])


def place_of_trial(tab, plot, trial):
    """Scroll a plot into view and return where in the window the mark of a trial is, by its number."""
    tab.evaluate(f"document.getElementById('{plot}').scrollIntoView({{block: 'center'}})")
    return tab.evaluate(f"""(() => {{
        const place = document.getElementById('{plot}'), box = place.getBoundingClientRect();
        const layout = place._fullLayout;
        for (const trace of place.data) {{
            const i = trace.mode === 'markers' ? trace.customdata.indexOf({trial}) : -1;
            if (i >= 0) return [box.left + layout.xaxis._offset + layout.xaxis.d2p(trace.x[i]),
                                box.top + layout.yaxis._offset + layout.yaxis.d2p(trace.y[i])];
        }}
    }})()""")


@pytest.mark.parametrize(("width", "dark"), VIEWS, ids=lambda value: str(value))
def test_every_plot_is_drawn_without_a_complaint_and_without_a_network(chromium, page, width, dark):
    tab = chromium.open(page, width=width, dark=dark)
    tab.wait_for(DRAWN)

    assert tab.problems() == []
    assert {url.split(":")[0] for url in tab.requests()} <= {"file", "data", "blob"}
    marks = ".trace, .contourlayer path, .heatmaplayer image"
    plots = tab.evaluate(f"[...document.querySelectorAll('.plot')].map((p) => [p.id, p.dataset.drawn, "
                         f"p.querySelectorAll('{marks}').length])")
    assert len(plots) == 14
    assert not [plot for plot, drawn, marks in plots if drawn != "yes" or marks == 0]
    assert tab.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    assert tab.evaluate(HIDDEN) == []
    ends = tab.evaluate("[...document.querySelectorAll('.plot svg')].map((svg) => svg.getBoundingClientRect().right)")
    assert max(ends) <= width


def test_the_page_and_its_plots_follow_the_colour_scheme(chromium, page):
    def colors():
        return tab.evaluate("[getComputedStyle(document.body).backgroundColor, "
                            "document.getElementById('study-1-curves')._fullLayout.font.color]")

    tab = chromium.open(page, width=1000, dark=False)
    tab.wait_for(DRAWN)
    light = colors()
    tab.set_dark(True)
    tab.wait_for("document.getElementById('study-1-curves')._fullLayout.font.color === '#e6e9ee'")

    assert light == ["rgb(246, 247, 249)", "#1c2430"]
    assert colors() == ["rgb(18, 22, 28)", "#e6e9ee"]
    assert tab.problems() == []


def test_hovering_over_a_mark_shows_its_trial(chromium, page):
    tab = chromium.open(page, width=1440)
    tab.wait_for(DRAWN)

    tab.move_to(*place_of_trial(tab, "study-1-values", 4))
    tab.wait_for("document.querySelector('.hoverlayer .hovertext') !== null")

    shown = tab.evaluate("document.querySelector('.hoverlayer .hovertext').textContent")
    assert "trial 0004" in shown
    assert "learning_rate" in shown


def test_a_click_filters_the_table_and_every_plot(chromium, page):
    tab = chromium.open(page, width=1440)
    tab.wait_for(DRAWN)

    tab.click(*place_of_trial(tab, "study-1-values", 4))
    tab.wait_for("!document.querySelector('.bar').hidden")

    rows = "[...document.querySelectorAll('table.trials tbody tr')].map((row) => row.cells[0].textContent)"
    assert tab.evaluate(rows) == ["0004"]
    assert "1 of 30 trials" in tab.evaluate("document.querySelector('.filters').textContent")
    kept = tab.evaluate("document.getElementById('study-1-slice_2d_learning_5f_rate').data.filter((t) => t.mode === "
                        "'markers').flatMap((t) => (t.selectedpoints || []).map((i) => t.customdata[i]))")
    assert set(kept) == {4}
    lines = tab.evaluate("document.getElementById('study-1-curves').data.find((t) => t.meta && t.meta.highlight)"
                         ".customdata.filter((at) => at !== null)")
    assert set(lines) == {4}

    tab.evaluate("document.querySelector('.bar button').click()")
    assert len(tab.evaluate(rows)) == 30
    assert tab.evaluate("document.querySelector('.bar').hidden")
    assert tab.problems() == []


def test_a_status_filters_and_a_column_sorts(chromium, page):
    tab = chromium.open(page, width=1440)
    tab.wait_for(DRAWN)
    cells = "[...document.querySelectorAll('table.trials tbody tr')].map((row) => row.cells[{}].textContent)"

    pruned = "[...document.querySelectorAll('.filters button')].find((b) => b.textContent.startsWith('pruned'))"

    tab.evaluate(f"{pruned}.click()")
    assert set(tab.evaluate(cells.format(1))) == {"pruned"}
    assert tab.evaluate(f"{pruned}.getAttribute('aria-pressed')") == "true"
    tab.evaluate(f"{pruned}.click()")

    tab.evaluate("document.querySelectorAll('table.trials th')[2].click()")
    values = [float(cell) for cell in tab.evaluate(cells.format(2)) if cell != "–"]
    assert values == sorted(values)
    assert len(values) < 30  # those without a value stand at the end
    assert tab.evaluate(cells.format(2))[-1] == "–"


def test_several_studies_are_drawn_on_one_page(chromium, tmp_path):
    studies = [write_mixed_study(tmp_path / name, 12, name=name, seed=i) for i, name in enumerate(("first", "second"))]
    tab = chromium.open(write_page(studies), width=1440)
    tab.wait_for(DRAWN)

    assert tab.problems() == []
    assert tab.evaluate("document.querySelectorAll('.plot[data-drawn=yes]').length === "
                        "document.querySelectorAll('.plot').length")
    assert tab.evaluate("document.querySelectorAll('#comparison .plot').length") == 2


def test_names_with_markup_stay_text_in_the_page_the_plots_and_the_hover(chromium, tmp_path):
    trials = [Made(params={MARKUP: [MARKUP, "b"][i % 2], "x": float(i)}, value=2.0 + i, reason=MARKUP,
                   curve=loss_curve(2.0 + i)) for i in range(8)]
    directory = write_study(tmp_path / "study", trials, name=MARKUP, metric=MARKUP,
                            parameters={MARKUP: {"values": [MARKUP, "b"]}})
    tab = chromium.open(write_page([directory]), width=1440)
    tab.wait_for(DRAWN)
    tab.move_to(*place_of_trial(tab, "study-1-values", 4))
    tab.wait_for("document.querySelector('.hoverlayer .hovertext') !== null")

    assert tab.evaluate("document.querySelector('h1').textContent") == MARKUP
    assert tab.evaluate("document.querySelectorAll('main b b, main img, .plot image[href=x]').length") == 0
    assert tab.evaluate("window.hacked") is None
    assert MARKUP[:20] in tab.evaluate("document.querySelector('.hoverlayer .hovertext').textContent")
    assert tab.problems() == []


def test_parallel_coordinates_lie_on_their_side_on_a_phone(chromium, page):
    for width, side in ((390, "yaxis"), (768, "xaxis"), (1440, "xaxis")):
        tab = chromium.open(page, width=width)
        tab.wait_for(DRAWN)
        names = tab.evaluate(f"[...document.querySelectorAll('#study-1-parallel .{side[0]}axislayer-above text')]"
                             f".map((label) => label.textContent)")
        assert names[0] == "learning_rate"
        assert names[-1] == "eval/loss, by rank"


def test_a_box_over_an_axis_chooses_the_trials_inside_it(chromium, page):
    tab = chromium.open(page, width=1440)
    tab.wait_for(DRAWN)
    box = tab.evaluate("""(() => { const place = document.getElementById('study-1-parallel');
        place.scrollIntoView({block: 'center'});
        const box = place.getBoundingClientRect(), layout = place._fullLayout, last = layout.xaxis.tickvals.length - 1;
        return [-0.2, 0.2].map((aside, i) => [box.left + layout.xaxis._offset + layout.xaxis.d2p(last + aside),
            box.top + layout.yaxis._offset + layout.yaxis.d2p(i ? 0.78 : 1.02)]); })()""")
    tab.drag(*box)
    tab.wait_for("!document.querySelector('.bar').hidden")

    ranked = sorted((float(value), trial) for trial, value in tab.evaluate(
        "[...document.querySelectorAll('table.trials tbody tr')].map((r) => [r.cells[0].textContent, "
        "r.cells[2].textContent])"))
    assert len(ranked) == 4  # ranks 1 to 4 of 19 lie above 0.78
    assert ranked[0][1] == tab.evaluate("document.querySelector('tr.best').cells[0].textContent")
    assert tab.problems() == []


def test_the_keyboard_chooses_trials_shows_their_differences_and_lets_go(chromium, page):
    tab = chromium.open(page, width=1440)
    tab.wait_for(DRAWN)
    tab.evaluate("document.querySelector('table.trials tbody tr').focus()")
    tab.press("Enter")
    tab.wait_for("!document.querySelector('.bar').hidden")
    assert tab.evaluate("document.activeElement.dataset.position") == "0"  # the focus stays on the row
    tab.evaluate("Plotly && document.getElementById('study-1-values').emit('plotly_click', "
                 "{points: [{customdata: 4}]})")

    compared = tab.evaluate("[...document.querySelectorAll('.compare tr')].map((r) => [...r.cells].map((c) => "
                            "c.textContent))")
    assert compared[0] == ["trial", "0000", "0004"]
    assert "learning_rate" in [row[0] for row in compared]
    assert "status" not in [row[0] for row in compared]  # both are complete

    tab.press("Escape")
    tab.wait_for("document.querySelector('.bar').hidden")
    assert tab.evaluate("document.querySelectorAll('.compare tr').length") == 0
    tab.evaluate("document.querySelector('table.trials tbody tr').focus()")
    tab.press("ArrowDown")
    assert tab.evaluate("document.activeElement.dataset.position") == "1"


@pytest.mark.parametrize("plot", ["values", "curves", "time"])
def test_the_keyboard_goes_over_the_marks_of_a_plot_and_chooses(chromium, page, plot):
    tab = chromium.open(page, width=1440)
    tab.wait_for(DRAWN)
    tab.evaluate(f"document.getElementById('study-1-{plot}').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        tab.press(key)
    said = tab.evaluate("document.querySelector('.said').textContent")
    trial = said[6:10]
    tab.wait_for(f"document.querySelector('.hoverlayer .hovertext')?.textContent.includes('{trial}')")

    tab.press("Enter")
    tab.wait_for("!document.querySelector('.bar').hidden")
    rows = tab.evaluate("[...document.querySelectorAll('table.trials tbody tr')].map((r) => r.cells[0].textContent)")
    assert rows == [trial]
    assert tab.evaluate("document.activeElement.id") == f"study-1-{plot}"  # the focus stays
    tab.press("End")
    last = tab.evaluate("document.querySelector('.said').textContent")
    assert last != said
    tab.wait_for(f"document.querySelector('.hoverlayer .hovertext')?.textContent.includes('{last[6:10]}')")
    tab.press("Escape")
    tab.wait_for("document.querySelector('.bar').hidden")
    assert tab.evaluate("document.activeElement.id") == f"study-1-{plot}"
    assert tab.problems() == []


CONTRASTS = """(() => {
    const channel = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
    const read = (text) => { const found = text.match(/[\\d.]+/g); return found ? found.map(Number) : [0, 0, 0, 0]; };
    const behind = (place) => {
        for (let at = place; at; at = at.parentElement) {
            const color = read(getComputedStyle(at).backgroundColor);
            if (color.length < 4 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const contrast = (a, b) => { const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
                                 return (high + 0.05) / (low + 0.05); };
    const weak = [], seen = { text: 0, mark: 0 };
    for (const place of document.querySelectorAll("main *:not(svg *), .bar *")) {
        if (![...place.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
        const style = getComputedStyle(place), own = contrast(read(style.color), behind(place));
        seen.text++;
        if (own < 4.5) weak.push([place.tagName, place.className, own]);
    }
    for (const text of document.querySelectorAll(".plot svg text")) {
        const own = contrast(read(getComputedStyle(text).fill), behind(text.closest(".card")));
        seen.text++;
        if (own < 4.5) weak.push(["text", text.textContent, own]);
    }
    const marks = ".scatterlayer .point, .scatterlayer .js-line, .bars path, .legend .scatterpts, .shapelayer path";
    for (const mark of document.querySelectorAll(`.plot :is(${marks})`)) {
        if (mark.closest("[id*=contour]")) continue;  // on the colours of a surface, with an outline of their own
        const style = getComputedStyle(mark), paper = behind(mark.closest(".card"));
        const best = Math.max(...[[style.fill, style.fillOpacity], [style.stroke, style.strokeOpacity]].filter(
            ([color, alpha]) => color !== "none" && alpha > 0).map(([color]) => contrast(read(color), paper)), 0);
        seen.mark++;
        if (best && best < 3) weak.push(["mark", mark.getAttribute("class"), style.fill, style.stroke, best]);
    }
    return { weak, seen };
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_a_contrast_of_4_5_and_marks_of_3_in_both_schemes(chromium, page, dark):
    tab = chromium.open(page, width=1440, dark=dark)
    tab.wait_for(DRAWN)
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = tab.evaluate(CONTRASTS)
    assert found["seen"]["text"] > 400
    assert found["seen"]["mark"] > 200
    assert found["weak"] == []


@pytest.mark.parametrize("dark", [False, True])
def test_paper_is_white_and_shows_everything_whatever_the_screen_is(chromium, page, dark):
    tab = chromium.open(page, width=1440, dark=dark)
    tab.wait_for(DRAWN)
    assert tab.pdf().startswith(b"%PDF")

    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("document.getElementById('study-1-curves')._fullLayout.font.color") == "#1c2430"
    assert tab.evaluate("[...document.querySelectorAll('details')].every((one) => one.open)")
    assert tab.evaluate("Math.max(...[...document.querySelectorAll('.plot')].map((p) => p._fullLayout.width))") <= 700
    assert tab.evaluate("Math.max(...[...document.querySelectorAll('.plot')].map((p) => p._fullLayout.height))") <= 760
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate("document.getElementById('study-1-curves')._fullLayout.font.color") == (
        "#e6e9ee" if dark else "#1c2430")
    assert not tab.evaluate("[...document.querySelectorAll('details')].some((one) => one.open)")
    assert tab.problems() == []


def test_what_prints_a_page_as_it_comes_gets_every_figure(chromium, page):
    tab = chromium.open(page, width=1440)
    tab.wait_for("document.readyState === 'complete'")  # what a program that prints a page waits for
    assert tab.evaluate("[...document.querySelectorAll('.plot')].filter((p) => !p.data).length") == 0
    assert not tab.evaluate("Boolean(document.querySelector('iframe'))")


def test_a_page_that_is_printed_while_it_is_drawn_holds_every_figure(chromium, page):
    tab = chromium.open(page, width=1440)
    sizes = tab.evaluate("""new Promise((done) => {
        const print = () => {
          if (!window.Plotly) { setTimeout(print, 0); return; }
          window.dispatchEvent(new Event('beforeprint'));
          done([...document.querySelectorAll('.plot')].map((p) => p._fullLayout ? p._fullLayout.width : 0));
        };
        print();
    })""")
    assert len(sizes) > 8
    assert min(sizes) >= 330
    assert max(sizes) <= 700
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    tab.wait_for(DRAWN)
    assert tab.evaluate("[...document.querySelectorAll('.plot')].every((p) => p.querySelectorAll('.main-svg').length)")
    assert tab.problems() == []


def test_no_number_of_a_sentence_is_broken_behind_its_hyphen(chromium, page):
    tab = chromium.open(page, width=390)
    tab.wait_for(DRAWN)
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = tab.evaluate("""[...document.querySelectorAll("p, li")].flatMap((place) => {
        const texts = [], walk = document.createTreeWalker(place, NodeFilter.SHOW_TEXT);
        for (let node = walk.nextNode(); node; node = walk.nextNode()) {
          for (const part of node.textContent.matchAll(/\\d(\\.\\d+)?e-\\d+/g)) {
            for (let width = 120; width < 390; width += 5) {
              const range = document.createRange();
              range.setStart(node, part.index);
              range.setEnd(node, part.index + part[0].length);
              place.style.width = `${width}px`;
              texts.push(new Set([...range.getClientRects()].map((one) => one.top)).size);
            }
          }
        }
        return texts;
    })""")
    assert len(found) > 100
    assert max(found) == 1


def test_twenty_hyperparameters_are_all_there_and_no_two_look_alike(chromium, tmp_path):
    names = [f"a_very_long_prefix_that_many_share_{i:02d}_and_an_ending_as_long" for i in range(20)]
    trials = [Made(params={name: (i * (k + 3)) % 29 / 10 for k, name in enumerate(names)}, value=2.0 + i % 7)
              for i in range(12)]
    tab = chromium.open(write_page([write_study(tmp_path / "study", trials)]), width=768)
    tab.wait_for(DRAWN)

    assert tab.evaluate("document.documentElement.scrollWidth") == 768
    titles = tab.evaluate("[...document.querySelectorAll('.card h4')].map((title) => title.textContent)")
    assert set(names) <= set(titles)
    shown = tab.evaluate("[...document.querySelectorAll('.plot')].filter((p) => p.id.startsWith('study-1-parallel'))"
                         ".map((p) => p.layout.xaxis.ticktext)")
    assert [len(axes) for axes in shown] == [8, 8, 7]
    assert len({name for axes in shown for name in axes}) == 21  # no two alike, and the metric in each
    assert tab.evaluate(HIDDEN) == []

    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")  # more columns than a sheet is wide: several tables
    assert tab.evaluate(HIDDEN) == []
    heads = tab.evaluate("[...document.querySelectorAll('table.sheet')].map((t) => [...t.tHead.rows[0].cells].map("
                         "(c) => c.textContent.replaceAll('\\u200b', '')))")
    assert len(heads) == 3
    assert set(names) <= {name for head in heads for name in head}
    assert all(head[:3] == ["trial", "status", "eval/loss"] for head in heads)
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate("document.querySelectorAll('table.sheet').length") == 0
    assert tab.problems() == []


CROSSED_TITLES = """[...document.querySelectorAll('.plot')].flatMap((place) => ['x', 'y'].filter((side) => {
    const title = place.querySelector(`.g-${side}title`);
    const box = title && title.textContent && title.getBoundingClientRect();
    return box && [...place.querySelectorAll(`.${side}axislayer-above .${side}tick text`)]
        .map((name) => name.getBoundingClientRect()).some((name) => name.width
            && (side === 'x' ? name.bottom > box.top + 1 : name.left < box.right - 1));
}).map((side) => [place.id, side]))"""
"""Axes whose title does not lie beyond all of the names along them."""


@pytest.mark.parametrize("width", [390, 1440])
def test_no_title_of_an_axis_lies_across_the_names_along_it(chromium, tmp_path, width):
    """Names stand upright where they are long, and what does not matter is drawn while it is folded."""
    schedules, noise = ["cosine_with_restarts", "linear", "constant_with_warmup"], random.Random(0)
    trials = [Made(params={"lr_scheduler_type": schedules[i % 3], "learning_rate": 10 ** (-5 + i / 10)},
                   value=2.5 + i / 10 + noise.gauss(0, 0.1)) for i in range(20)]
    directory = write_study(tmp_path / "study", trials, parameters={
        "lr_scheduler_type": {"values": schedules}, "learning_rate": LEARNING_RATE})
    tab = chromium.open(write_page([directory]), width=width)
    tab.wait_for(DRAWN)
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tab.wait_for("document.querySelector('.folded .g-xtitle').getBoundingClientRect().height > 0")
    assert tab.evaluate("document.querySelectorAll('.folded .g-xtitle').length") == 1
    assert tab.evaluate(CROSSED_TITLES) == []
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(CROSSED_TITLES) == []
    assert tab.problems() == []


CUT_LEGENDS = """[...document.querySelectorAll('.plot .legend')].filter((legend) => {
    const names = [...legend.querySelectorAll('.legendtext')].filter((one) => one.textContent);
    const box = (one) => one.getBoundingClientRect(), marks = [...legend.querySelectorAll('.layers')].map(box);
    const edge = Math.min(box(legend.querySelector('.bg')).right, box(legend.closest('.plot')).right);
    return names.map(box).some((name) => name.right > edge + 1 || marks.some((mark) =>
        mark.left < name.right && mark.right > name.right && mark.top < name.bottom && mark.bottom > name.top));
}).map((legend) => legend.closest('.plot').id)"""
"""Plots whose legend hides the end of a name, at its edge or behind the next mark."""


@pytest.mark.parametrize("width", [390, 1440])
def test_no_name_in_a_legend_is_cut_off(chromium, page, tmp_path, width):
    """A default of 0.1234 whose end is cut off is another number, and studies are told apart by their names."""
    (tmp_path / "v.yaml").write_text(FILE.replace("dropout: 0.0", "dropout: 0.1234"))
    spec = read_vary(tmp_path / "v.yaml")
    decided = journal(spec, tmp_path / "lab", {(value, seed): 1 + value + seed / 100
                                               for value in spec.values for seed in (1, 2, 3)}).directory
    (decided / "study.yaml").write_text(spec.as_yaml())
    studies = [write_study(tmp_path / name, [Made(params={"lora_r": rank}, value=2 + rank / 100) for rank in (8, 4)],
                           name=f"a study of 数据 with a {name} name") for name in ("rather_long", "somewhat_longer")]
    for file in (page, write_study_page(decided), write_page(studies, out=tmp_path / "both")):
        tab = chromium.open(file, width=width)
        tab.wait_for(DRAWN)
        tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert tab.evaluate("document.querySelectorAll('.plot .legendtext').length") > 4
        assert tab.evaluate(CUT_LEGENDS) == []
        assert tab.problems() == []


BROKEN_OPTIONS = """[...document.querySelectorAll('.how dd')].flatMap((place) => {
    const texts = document.createTreeWalker(place, NodeFilter.SHOW_TEXT), found = [];
    for (let text = texts.nextNode(); text; text = texts.nextNode())
        for (const option of text.data.matchAll(/(?<!\\S)--[\\w-]+/g)) {
            const range = document.createRange();
            range.setStart(text, option.index);
            range.setEnd(text, option.index + option[0].length);
            if (range.getClientRects().length > 1) found.push(option[0]);
        }
    return found;
})"""


def test_an_option_of_the_command_is_not_broken_behind_its_hyphens(chromium, tmp_path):
    analysis = analyse(read_study(write_study(tmp_path / "study", [Made(value=2.0, params={"lora_r": 8})])))
    command = f"python -m kaggle_runner train one.yaml --full {'--no-early-end --epochs 8 --cpu ' * 6}"
    (tmp_path / "page.html").write_text(page_of([dataclasses.replace(analysis, how=(("command", command),))]))
    tab = chromium.open(tmp_path / "page.html", width=390)
    tab.wait_for(DRAWN)
    assert tab.evaluate(BROKEN_OPTIONS) == []
    assert tab.evaluate("document.querySelector('.how dd').textContent") == command
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


ALIKE = {
    "models": {"model": [f"unsloth/Meta-Llama-3.1-{size}-Instruct-bnb-4bit" for size in ("8B", "70B", "405B")],
               "dataset": [f"/kaggle/input/my-dataset-{name}/cleaned/train_conversations.jsonl" for name in "ab"]},
    "middle": {"model": [f"organisation-with-name/Llama-3.1-{size}-Instruct-bnb-4bit-extended-context-edition-final"
                         for size in ("8B", "70B", "13B", "3B", "1B")]}}

CROWDED = """(() => {
    const place = document.getElementById('study-1-parallel'), box = (one) => one.getBoundingClientRect();
    const card = box(place), found = [];
    const names = [...place.querySelectorAll('.annotation-text-g, .xaxislayer-above text, .yaxislayer-above text')];
    const meet = (a, b) => a.left < b.right - 1 && a.right > b.left + 1 && a.top < b.bottom - 1 && a.bottom > b.top + 1;
    names.forEach((one, i) => {
        const own = box(one);
        if (own.left < card.left || own.right > card.right) found.push(one.textContent + ' is cut');
        for (const other of names.slice(0, i))
            if (meet(own, box(other))) found.push(one.textContent + ' lies on ' + other.textContent);
    });
    return found;
})()"""
"""Which words of the parallel coordinates are cut, or lie on each other."""


@pytest.mark.parametrize("kind", ALIKE)
def test_names_that_are_long_and_alike_leave_room_for_their_plots(chromium, tmp_path, kind):
    values = ALIKE[kind]
    trials = [Made(value=2.5 + place % 5 / 20 + place / 1000, params={
        name: known[place % len(known)] for name, known in values.items()} | {"learning_rate": 10 ** (-5 + place / 9)})
        for place in range(18)]
    study = write_study(tmp_path / "s", trials, parameters={
        name: {"values": known} for name, known in values.items()} | {"learning_rate": LEARNING_RATE})
    for width in (390, 768, 1440):
        tab = chromium.open(write_page([study]), width=width)
        tab.wait_for(DRAWN)
        tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        tab.wait_for("[...document.querySelectorAll('.plot')].every((one) => one.dataset.drawn === 'yes')")
        rooms = tab.evaluate("[...document.querySelectorAll('.plot')].filter((one) => one.id.includes('slice'))"
                             ".map((one) => [one.id, one._fullLayout._size.h / one.clientHeight])")
        assert len(rooms) == len(values) + 1
        assert [name for name, room in rooms if room < 0.5] == [], width
        assert tab.evaluate(CROWDED) == [], width
        assert tab.evaluate(HIDDEN) == [], width
        chips = tab.evaluate("[...document.querySelectorAll('.settings li b')].map((one) => one.textContent)")
        assert value_names(values["model"], 60)[0] in chips
        assert tab.problems() == []


def test_long_names_and_answers_fit_a_phone(chromium, tmp_path):
    name, word = "a_hyperparameter_whose_name_has_forty_eight_lett", "an_answer_without_a_blank" * 9
    trials = [Made(params={name: i / 23, "rate": 1.234e-4 * (1 + i * 7 % 24)}, value=2 + i / 23,
                   curve=loss_curve(2 + i / 23)) for i in range(24)]
    analysis = analyse(read_study(write_study(tmp_path / "study", trials, name=name, parameters={
        name: {"min": 0.0, "max": 1.0}, "rate": {"min": 1e-5, "max": 1e-2}})))
    asked = Asked(prompt=word, expected=word, base=word, answers=(("0000", word), ("0001", word)))
    (tmp_path / "page.html").write_text(page_of([dataclasses.replace(analysis, asked=(asked,))]))
    tab = chromium.open(tmp_path / "page.html", width=390)
    tab.wait_for(DRAWN)
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")

    assert f"Narrow {name} to" in tab.evaluate("document.querySelector('main').textContent")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.evaluate("[...document.querySelectorAll('h1, h3, h4, p, li, dt, dd, .plot svg text')].filter((one) => "
                        "one.getBoundingClientRect().right > 390).map((one) => one.textContent)") == []
    assert tab.evaluate(HIDDEN) == []
    assert tab.evaluate("[...document.querySelectorAll('.asked dd')].length") == 5
    shown = tab.evaluate("[...document.querySelectorAll('table.trials tbody tr')].map((row) => [...row.cells].map("
                         "(cell) => cell.textContent))[0]")
    assert "1.234e-4" in shown, "as many digits as in the sentences"


def test_where_nothing_has_a_value_no_empty_axis_is_drawn(chromium, tmp_path):
    trials = [Made(params={"x": i}, value=None, status=Status.FAILED, reason="loss is nan") for i in range(4)]
    tab = chromium.open(write_page([write_study(tmp_path / "study", trials, baseline=3.0)]), width=390)
    tab.wait_for(DRAWN)
    assert tab.problems() == []
    names = "[...document.querySelectorAll('#study-1-values .yaxislayer-above text')].map((one) => one.textContent)"
    assert tab.evaluate(names) == ["no value"]
    assert tab.evaluate("document.querySelectorAll('#study-1-values .shapelayer path').length") == 0
    assert tab.evaluate("document.querySelectorAll('#study-1-values .scatterlayer .point').length") == 4


@pytest.mark.slow
def test_a_page_of_many_trials_is_drawn_and_filtered(chromium, tmp_path):
    tab = chromium.open(write_page([write_mixed_study(tmp_path / "study", 400)]), width=1440)
    tab.wait_for(DRAWN)

    assert "400 of 400 trials" in tab.evaluate("document.querySelector('.filters').textContent")
    assert tab.evaluate("document.querySelectorAll('table.trials tbody tr').length") == 100  # the rest on demand
    tab.click(*place_of_trial(tab, "study-1-values", 4))
    tab.wait_for("!document.querySelector('.bar').hidden")
    assert tab.problems() == []
