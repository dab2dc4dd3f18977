"""The recorded book is whole and needs nothing from outside; a book with a problem is refused with page and reason."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse
from collections import Counter
from html import unescape

import nbformat
import pytest
from test_notebooks import write

from distill_lib import experiments
from distill_lib.core import paths
from distill_lib.core.errors import UserError
from distill_lib.experiments.papers import skd
from distill_lib.publish import build, check, pages
from distill_lib.records import reported
from distill_lib.tables import claims, findings, ledger, widgets
from distill_lib.tables.html import BOOK

PAGES = build._contents(paths.ROOT)
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync".split()
FLAGS += ["--disable-background-networking", "--disable-component-update"]
MATHJAX_READY = """async () => {
    while (!window.MathJax?.startup?.promise) await new Promise(r => setTimeout(r, 20));
    await MathJax.startup.promise;
}"""
FORMULAS = """() => {
    const all = [...document.querySelectorAll('.math')];
    const fine = m => m.querySelector('mjx-container') && !m.querySelector('[data-mml-node=merror]');
    return [all.length, all.filter(fine).length];
}"""
CUT = """() => [...document.querySelectorAll('.distill-scroll')]
    .filter(box => box.checkVisibility() && box.scrollWidth > box.clientWidth + 1)
    .filter(box => !box.matches('.more-right, .more-left'))
    .map(box => box.getAttribute('aria-label'))"""  # tables that go on without a visible edge
BARE = """() => [...document.querySelectorAll('div.cell_output img')]
    .filter(image => !image.closest('.distill-gallery') && !image.closest('figure')?.querySelector('figcaption'))
    .map(image => image.alt)"""  # figures without a caption
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """Folder of the recorded book; live pages that are already executed, unchanged, in the checkout's `runs/` are taken
    from there."""
    ready = paths.ROOT / "runs" / "recorded" / "pages"
    if ready.exists():
        shutil.copytree(ready, paths.runs() / "recorded" / "pages", dirs_exist_ok=True)
    return build.build(out=tmp_path_factory.mktemp("book")).parent


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as p:
        context = p.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("chromium")), executable_path=chromium, headless=True, args=FLAGS, viewport=DESK
        )
        yield context
        context.close()


def axe_script():
    """The accessibility checks' script, from its package."""
    base = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
    return base.AXE_SCRIPT


def violations(page, theme):
    """Serious and critical violations of a page in a theme: rule, place, and what is there."""
    page.evaluate("t => Object.assign(document.documentElement.dataset, {mode: t, theme: t})", theme)
    found = page.evaluate("async () => (await axe.run({resultTypes: ['violations'], preload: false})).violations")
    return [
        f"{theme}: {v['id']} at {n['target'][0]}: {n['html'][:160]}"
        for v in found
        if v["impact"] in ("serious", "critical")
        for n in v["nodes"][:3]
    ]


@pytest.fixture(scope="module")
def visits(html, browser):
    """What a browser saw on every page: title, errors, requests, formulas, width on a phone."""
    seen = {}
    for name in PAGES:
        page = browser.new_page()
        errors, outside = [], []
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("requestfailed", lambda r: errors.append(f"not loaded: {r.url}"))
        page.on(
            "request",
            lambda r: (
                None if urllib.parse.urlsplit(r.url).scheme in ("file", "data", "blob") else outside.append(r.url)
            ),
        )
        page.goto((html / f"{name}.html").as_uri())
        if page.locator(".math").count():
            page.evaluate(MATHJAX_READY)
        formulas = page.evaluate(FORMULAS)
        seen[name] = {
            "title": page.title(),
            "heading": page.locator("h1").first.inner_text(),
            "errors": errors,
            "outside": outside,
            "formulas": formulas,
        }
        page.evaluate(axe_script())
        page.add_style_tag(content="* { transition: none !important }")  # colours in between are nobody's
        seen[name]["violations"] = [v for theme in ("light", "dark") for v in violations(page, theme)]
        seen[name]["shown"] = page.locator("article :is(table, img, svg, pre)").count()
        seen[name]["bare"] = page.evaluate(BARE)
        seen[name]["cut"] = page.evaluate(CUT)
        page.set_viewport_size(PHONE)
        seen[name]["overflow"] = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        page.wait_for_timeout(100)
        seen[name]["cut"] += page.evaluate(CUT)
        page.close()
    return seen


# --- the recorded book ------------------------------------------------------------------------------------------------
def test_every_page_of_the_contents_is_there_without_problems(html):
    assert check.check_html(html, PAGES) == []
    files = [f for f in html.rglob("*") if f.is_file() and html / "records" not in f.parents]  # records may grow
    assert sum(f.stat().st_size for f in files) <= 48 * 2**20  # with code and the outputs of downloaded notebooks


def test_every_notebook_s_page_shows_what_it_computed(html):
    for page in pages.notebooks():
        assert "cell_output" in (html / f"{page.name}.html").read_text(), page.shown


@pytest.mark.parametrize("page", pages.notebooks(), ids=lambda p: p.shown)
def test_every_notebook_s_page_says_how_it_is_made(html, page):
    text = (html / f"{page.name}.html").read_text()
    assert text.count('id="made-by"') == 1 and f"papermill {page.name}.ipynb out.ipynb -p profile recorded" in text
    said, own = text.partition('id="made-by"')[2], page.name.removeprefix("notebooks/")
    source, total = page.file.read_text(), 0
    for name in experiments.experiments():  # its own, and those that its cells name
        shown = name == own or f'\\"{name}\\"' in source
        kept = [f for f in (paths.results("small") / name).glob("*") if shown and f.is_file()]
        records = sum(f.suffix == ".json" and '"made_by"' in f.read_text() for f in kept)
        assert (f"results/small/{name}: " in said) == bool(kept)
        assert not records or f": {records} record" in said
        total += records
    assert bool(total) == ("each with settings, seeds" in said)
    assert text.count("<figcaption>") == text.count(">Command and records</a>")


@pytest.mark.parametrize("name", PAGES)
def test_page_opens_from_a_file_and_loads_nothing_from_outside(visits, name):
    seen = visits[name]
    assert seen["heading"].rstrip("#") in seen["title"]
    assert seen["outside"] == [] and seen["errors"] == []


@pytest.mark.parametrize("name", PAGES)
def test_page_renders_every_formula_and_fits_a_phone(visits, name):
    total, rendered = visits[name]["formulas"]
    assert rendered == total
    assert visits[name]["overflow"] <= 0


@pytest.mark.parametrize("name", PAGES)
def test_page_can_be_used_by_everyone_in_either_theme(visits, name):
    assert visits[name]["violations"] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_table_is_cut_without_an_edge_and_no_figure_is_without_a_caption(visits, name):
    assert visits[name]["cut"] == [] and visits[name]["bare"] == []


@pytest.mark.parametrize("name", PAGES)
def test_page_has_a_table_or_a_figure_or_code(visits, name):
    assert visits[name]["shown"] >= 1


@pytest.mark.parametrize("word", ["distillation", "difficulty"])
def test_search_finds_a_word_without_a_server(html, browser, word):
    page = browser.new_page()
    page.goto((html / "search.html").as_uri() + f"?q={word}")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    page.close()


@pytest.fixture(scope="module")
def server(html):
    """Address of the book on a server of this machine, and the answers that it gave: (path, status)."""
    answers = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            answers.append((self.path, int(code)))

        def log_message(self, *parts):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=html)) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}", answers
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["book/intro", "book/ledger", "notebooks/skd/table1_accuracy", "book/dm"])
def test_a_page_works_from_a_server_and_asks_no_other(server, browser, name):
    address, answers = server
    answers.clear()
    page, asked, errors = browser.new_page(), [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(f"{address}/{name}.html", wait_until="networkidle")
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert answers and [(path, status) for path, status in answers if status not in (200, 304)] == [] and errors == []
    icon = page.locator("link[rel~=icon]").evaluate("link => link.href")  # without one a browser asks for /favicon.ico
    assert page.request.get(icon).ok
    page.goto(f"{address}/search.html?q=difficulty")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    page.locator("#search-results li a").first.click()
    page.wait_for_selector("article h1")
    page.close()


@pytest.mark.parametrize("name", ["notebooks/skd/table1_accuracy", "book/dm"])
def test_a_page_is_downloaded_as_a_notebook_with_outputs_that_says_what_it_needs(server, browser, name):
    page = next(p for p in pages.live(paths.ROOT, PAGES) if p.name == name)
    tab = browser.new_page()
    tab.goto(f"{server[0]}/{name}.html")
    tab.locator(".dropdown-download-buttons > button").first.click()
    with tab.expect_download() as download:
        tab.locator(".dropdown-download-buttons a[href$='.ipynb']").first.click()
    assert download.value.suggested_filename == f"{name.rpartition('/')[2]}.ipynb"
    got = nbformat.read(download.value.path(), as_version=4)
    nbformat.validate(got)
    first, folders, *cells = got.cells
    assert "pip install" in first.source
    printed = subprocess.run([sys.executable, "-c", folders.source], capture_output=True, text=True, check=True).stdout
    assert str(paths.results("small").parent) in printed and str(paths.runs()) in printed
    code = [c.source for c in page.notebook().cells if c.cell_type == "code"]
    assert [c.source for c in cells if c.cell_type == "code"] == code
    assert any(c.get("outputs") for c in cells)
    assert not any(re.search(r"\{(doc|src|term|cite:\w+)\}`", c.source) for c in cells if c.cell_type == "markdown")
    tab.close()


def test_a_printed_page_has_its_text_and_tables_whole_and_nothing_to_click(html, browser):
    page = browser.new_page()
    page.goto((html / "book" / "intro.html").as_uri())
    page.emulate_media(media="print")
    seen = "([...document.querySelectorAll(s)].filter(e => e.offsetParent).length)"
    for clicked in (
        ".distill-tools",
        ".distill-filters",
        ".bd-sidebar-primary",
        ".article-header-buttons",
        "#rtd-footer-container",
    ):
        assert page.evaluate(f"s => {seen}", clicked) == 0, clicked
    assert page.evaluate(f"s => {seen}", "h1") == 1 and page.evaluate(f"s => {seen}", "table.distill-table") >= 1
    pdf = page.pdf(format="A4")
    hides = "b => getComputedStyle(b).overflowY !== 'visible' || b.scrollHeight > b.clientHeight + 1"
    for name in ("intro", "ledger"):  # the ledger's table has filters
        page.goto((html / "book" / f"{name}.html").as_uri())
        assert page.evaluate(f"[...document.querySelectorAll('.distill-scroll')].filter({hides}).length") == 0, name
    assert (
        pdf.startswith(b"%PDF")
        and pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page/") + pdf.count(b"/Type/Page/") >= 2
    )
    page.close()


def test_the_ledger_shows_the_rows_that_are_chosen(html, browser):
    page = browser.new_page()
    page.goto((html / "book" / "ledger.html").as_uri())
    rows = page.locator("table[data-filters] tbody tr")
    texts = rows.evaluate_all("rows => rows.map(row => row.textContent.toLowerCase())")
    expected = [t for t in texts if "skd/table2_cross_architecture" in t and "resnet18" in t and "dim" in t]
    page.locator(".distill-filters select").first.select_option("skd/table2_cross_architecture")
    page.locator(".distill-filters input").fill("resnet18 dim")
    shown = rows.evaluate_all("rows => rows.filter(row => row.offsetParent).map(row => row.textContent.toLowerCase())")
    assert shown == expected and 0 < len(shown) < len(texts)
    assert page.locator(".distill-filters output").inner_text() == f"{len(shown)} of {len(texts)} rows"
    page.close()


def test_every_table_is_offered_as_csv(html, browser):
    page = browser.new_page()
    page.goto((html / "book" / "ledger.html").as_uri())
    with page.expect_download() as download:
        page.locator("a[download$='.csv']").first.click()
    text = download.value.path().read_text()
    assert text.startswith("table or figure,") and "SKD, Table 1: test accuracy" in text
    page.close()


def test_a_page_can_be_read_with_the_keyboard_alone(html, browser):
    """Enter sorts; a table's box takes the focus, and arrow keys move in it and stay on the page."""
    page = browser.new_page()
    page.goto((html / "notebooks/skd/table1_accuracy.html").as_uri())
    page.locator("table.distill-table th button.distill-sort").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort]").count() == 1
    assert page.evaluate("[...document.querySelectorAll('.distill-scroll')].every(box => box.tabIndex === 0)")
    page.locator(".distill-scroll").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    assert page.url.endswith("table1_accuracy.html")
    page.close()


def test_the_list_of_contents_folds_where_a_table_takes_its_place(html, browser):
    page = browser.new_page()
    page.goto((html / "book" / "claims.html").as_uri())
    page.wait_for_function("""() => [...document.querySelector('table.distill-table').tHead.rows[0].cells].every(c => {
        const box = c.getBoundingClientRect()
        return c.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2))
    })""")
    page.close()


def test_a_table_sorts_by_the_heading_clicked(html, browser):
    page = browser.new_page()
    page.goto((html / "book" / "ledger.html").as_uri())
    button = page.locator("table.distill-table th button.distill-sort").nth(1)
    rows = "[...document.querySelector('table.distill-table').tBodies[0].rows]"
    column = f"{rows}.map(r => parseFloat(r.cells[1].textContent))"
    button.click()
    first = page.evaluate(column)
    button.click()
    second = page.evaluate(column)
    assert first == sorted(first, reverse=True) and second == sorted(second) and first != second
    page.close()


ORDERS = [  # a column, and what a click and another one make of it
    ("DM IDC-1 CIFAR10", "CIFAR10 DM IDC-1", "IDC-1 DM CIFAR10"),
    ("20 1,000 none +3.5 −2 ≥4", "1,000 20 ≥4 +3.5 −2 none", "−2 +3.5 ≥4 20 1,000 none"),
]


@pytest.mark.parametrize("given, first, second", ORDERS)
def test_columns_of_words_and_of_numbers_sort_both_ways(browser, given, first, second):
    page = browser.new_page()
    rows = "".join(f"<tr><td>{text}</td></tr>" for text in given.split())
    page.set_content(f"<table><thead><tr><th>a</th></tr></thead><tbody>{rows}</tbody></table>")
    page.add_script_tag(path=paths.ROOT / "book" / "_static" / "book.js")
    page.evaluate("sortable(document.querySelector('table'))")
    for wanted in (first, second):
        page.locator("button").click()
        assert page.locator("td").all_inner_texts() == wanted.split()
    page.close()


# --- what a reader came for -------------------------------------------------------------------------------------------
@pytest.fixture
def desk(browser):
    page = browser.new_page()
    page.set_viewport_size({"width": 1400, "height": 900})
    yield page
    page.close()


def test_the_front_page_says_what_was_measured_and_what_each_paper_s_finding_is(html, desk):
    desk.goto((html / "book" / "intro.html").as_uri())
    counts = sum(ledger.counts().values(), Counter())
    text = desk.locator("article").inner_text()
    assert f"print {ledger.total(counts)} numbers" in text
    lines = [line.strip().removeprefix("- ") for sentence in claims.overall() for line in sentence.splitlines()]
    assert all(line.replace("*", "") in text for line in lines)
    assert desk.locator("#fig-front-claims img").count() == (len(claims.run()) > 0)
    assert desk.locator(".distill-bars .paper").count() == 4
    for paper in reported.PAPERS:
        assert findings.headline(paper)[0].replace("*", "") in text
    box = desk.locator(".distill-bars .bar").first.bounding_box()
    assert box["y"] + box["height"] < 900
    measured = sum(counts[s] for s in ledger.FULL)
    shown = desk.locator(".distill-bars :is(.matched, .differs, .undecided)[style]").all_inner_texts()
    assert sum(map(int, shown)) == measured


@pytest.mark.parametrize("paper", reported.PAPERS)
def test_a_paper_s_page_has_a_figure_and_numbers_of_ours_on_the_first_screen(html, desk, paper):
    desk.goto((html / "book" / f"{paper}.html").as_uri())
    assert desk.locator("article figure img").first.bounding_box()["y"] < 700
    first = desk.locator("article div.cell_output").first
    box = first.bounding_box()
    assert box["y"] + box["height"] < 900
    assert len(re.findall(r"\d+(?:\.\d)? %", first.inner_text())) >= 3


def test_the_gallery_shows_methods_side_by_side_and_a_whole_set_on_a_click(html, desk):
    desk.goto((html / "notebooks/skd/gallery.html").as_uri())
    rows = desk.locator(".distill-gallery").first.locator("details")
    names = rows.locator("summary > span:first-child").all_inner_texts()
    assert len(set(names)) >= 12
    shown = desk.locator(".distill-gallery").evaluate_all("all => all.map(part => part.getAttribute('aria-label'))")
    settings = [f"{data}, {ipc}" for data in ("MNIST", "FashionMNIST", "CIFAR10") for ipc in (1, 10)]
    assert all(any(part.startswith(f"{wanted} image") for part in shown) for wanted in settings)
    for part in desk.locator(".distill-gallery").all()[: len(settings)]:  # a row is there, or why it is not
        text = part.inner_text()
        assert all(method in text for method in skd.IN_GALLERY)
    whole = rows.first.locator("img.whole")
    assert not whole.is_visible()
    rows.first.locator("summary").focus()
    desk.keyboard.press("Enter")
    assert whole.is_visible()
    assert desk.evaluate("[...document.querySelectorAll('.distill-gallery img')].every(i => i.alt && i.naturalWidth)")


def test_the_time_lapse_moves_all_sets_with_one_slider(html, desk):
    desk.goto((html / "notebooks/skd/timelapse.html").as_uri())
    slider, said = desk.locator(".distill-film input"), desk.locator(".distill-film output")
    assert said.count() >= 4  # DM, DC, MTT, CAFE
    slider.fill("0")
    assert all(text.startswith("step 0:") for text in said.all_inner_texts())
    places = "[...document.querySelectorAll('.distill-film .frame')].map(f => f.style.backgroundPositionY)"
    assert set(desk.evaluate(places)) == {"0%"}
    slider.focus()
    desk.keyboard.press("ArrowRight")
    assert not any(text.startswith("step 0:") for text in said.all_inner_texts())


QUESTIONS = [  # what is chosen, and the method asked for
    ({"data": "FashionMNIST", "images per class": "10", "profile": "small", "protocol": "vico_dsa@100ep"}, "DM"),
    ({"data": "FashionMNIST", "images per class": "1", "profile": "small", "protocol": "dim@300ep"}, "SKD"),
    ({"data": "MNIST", "images per class": "1", "profile": "small", "protocol": "vico_noaug@300ep"}, "Herding"),
    ({"data": "CIFAR10", "images per class": "1", "profile": "full", "protocol": "vico_dsa"}, "Random"),
    ({"data": "ImageNette@64px", "images per class": "1", "profile": "small"}, "GLaD with DM"),
]


@pytest.mark.parametrize("chosen, method", QUESTIONS)
def test_the_explorer_answers_with_the_numbers_of_the_records(html, desk, chosen, method):
    desk.goto((html / "book" / "explorer.html").as_uri())
    for axis, value in chosen.items():
        desk.locator(f".distill-explorer select[name='{axis}']").select_option(value)
    row = desk.locator(".distill-explorer table tbody tr").filter(has=desk.locator(f"th:text-is('{method}')"))
    said = row.first.locator("td").first.inner_text()
    right = [e for e in widgets.entries() if e["method"] == method and all(e[k] == v for k, v in chosen.items())]
    numbers = {f"{e['mean']:.1f}" + ("" if e["std"] is None else f" ± {e['std']:.1f}") for e in right}
    assert said in numbers
    assert desk.locator(".distill-explorer svg circle").count() == desk.locator(".distill-explorer tbody tr").count()
    record = row.first.locator("a")
    record.click()
    assert f"{right[0]['mean']:.1f}"[:2] in desk.locator("main p").nth(1).inner_text()


def test_the_explorer_keeps_its_choice_in_the_address_and_works_with_the_keyboard(html, desk):
    desk.goto((html / "book" / "explorer.html").as_uri() + "#data=MNIST&images per class=1&without=DM")
    assert desk.locator(".distill-explorer select[name='data']").input_value() == "MNIST"
    names = desk.locator(".distill-explorer tbody th")
    assert "DM" not in names.all_inner_texts() and "without=DM" in desk.url
    tick = desk.locator(".distill-explorer input[value='DM']")
    tick.focus()
    desk.keyboard.press("Space")
    assert "DM" in names.all_inner_texts() and "without" not in desk.url
    desk.evaluate("location.hash = '#data=FashionMNIST&images per class=10&without=DM'")
    desk.wait_for_function("!location.hash.includes('per class')")  # the script has written it anew
    assert desk.locator(".distill-explorer select[name='data']").input_value() == "FashionMNIST"
    assert "DM" not in names.all_inner_texts() and "without=DM" in desk.url


def test_without_javascript_the_explorer_leads_to_its_numbers():
    without = re.search("<noscript>.*</noscript>", widgets.explorer()._repr_html_())[0]
    assert re.findall('href="(.*?)"', without) == [f"{BOOK}index.csv", f"{BOOK}book/ledger.html"]


def test_a_number_is_copied_with_its_address_and_its_record_is_a_page(html, desk):
    desk.goto((html / "notebooks/skd/table1_accuracy.html").as_uri())
    desk.evaluate("Object.defineProperty(navigator, 'clipboard', {value: {writeText: async t => { window.got = t; }}})")
    name = "dm_fashionmnist_ipc10_convnet_vico-dsa-small"
    row = desk.locator(f"tr[id='{name}']")
    row.locator(".distill-copy").click()
    got = desk.evaluate("window.got")
    assert "% test accuracy; DM, FashionMNIST, IPC 10; budget small" in got and got.endswith(f"#{name}")
    desk.evaluate("""() => {
        navigator.clipboard.writeText = async () => { throw Error("denied"); };
        document.execCommand = () => { window.other = document.activeElement.value; };
    }""")
    row.locator(".distill-copy").click()  # while the button still shows that it has copied
    assert desk.evaluate("window.other") == got
    desk.wait_for_timeout(1300)
    assert row.locator(".distill-copy").inner_text() == "⧉"
    row.locator("a.distill-record").click()
    assert '"made_by"' in desk.locator("pre").inner_text()
    desk.locator("main a").first.click()
    assert desk.url.endswith(f"table1_accuracy.html#{name}")


def test_code_is_a_page_of_the_book_and_nothing_leads_to_an_address_that_is_not_set(html, desk):
    desk.goto((html / "notebooks/skd/gallery.html").as_uri())
    desk.locator("a:has-text('distill_lib/tables/gallery.py')").first.click()
    assert "def shelves" in desk.locator("pre").inner_text()
    assert not any("github.com/distill-lib" in f.read_text() for f in (html / "notebooks").rglob("*.html"))


def test_search_puts_the_table_that_was_asked_for_first(html, browser):
    page = browser.new_page()
    page.goto((html / "search.html").as_uri() + "?q=SKD+FashionMNIST+accuracy")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    page.wait_for_timeout(500)
    assert page.locator("#search-results li a").first.get_attribute("href").startswith("notebooks/skd/table1_accuracy")
    page.close()


# --- books with problems, and the book of a run -----------------------------------------------------------------------
@pytest.fixture
def root(tmp_path, monkeypatch):
    """A book of one page in the real book's dress."""
    monkeypatch.setenv("DISTILL_RUNS", str(tmp_path / "runs"))
    root = tmp_path / "root"
    shutil.copytree(paths.ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copy(paths.ROOT / "_config.yml", root)
    shutil.copy(paths.ROOT / "book" / "references.bib", root / "book")
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/intro\n")
    (root / "book" / "intro.md").write_text("# Intro\n\nAll is well with $x^2$.\n")
    return root


def test_each_problem_is_named_with_its_page_and_again_on_the_next_build(root):
    intro = root / "book" / "intro.md"
    inside = "[gone](nowhere.md) {doc}`missing` {src}`no/such.py` ![](none.png)"
    outside = "<a href='x.html'>y</a> <img src='https://example.org/a.png' alt='a'>"
    intro.write_text(f"# Intro\n\n{inside}\n\n{outside}\n")
    for _ in range(2):
        with pytest.raises(UserError) as refused:
            build.build(root=root)
        message = str(refused.value)
        for problem in (
            "nowhere.md",
            "unknown document: 'missing'",
            "no such file: no/such.py",
            "none.png",
            "broken link to x.html",
            "from outside",
        ):
            assert any(problem in line and "book/intro" in line for line in message.splitlines()), (problem, message)
    intro.write_text("# Intro\n\nAll is well.\n")
    assert build.build(root=root) == root / "_build" / "html" / "index.html"


def test_a_run_s_book_shows_its_numbers_and_names_its_profile(root, capsys):
    write(root, "demo/table1", "print('computed', n * 2, profile)")
    write(root, "demo/table2", "n + 1")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n- file: notebooks/demo/table1\n- file: notebooks/demo/table2\n"
    )
    done = build.reproduce("smoke", only="demo/table1", parameters={"n": 21}, root=root)
    page = (done.book.parent / "notebooks" / "demo" / "table1.html").read_text()
    assert "computed 42 smoke" in page and "Profile <b>smoke</b>" in page and "other notebooks show recorded" in page
    assert done.notebooks == 1 and done.memory_mb > 50 and str(done.book) in capsys.readouterr().out
    command = "papermill notebooks/demo/table1.ipynb out.ipynb -p profile smoke -y '{\"n\": 21}'"
    assert command in unescape(re.sub("<.*?>", "", page))
    done = build.reproduce("recorded", only="demo/table1", parameters={"n": 21}, root=root)
    assert str(done.book) in capsys.readouterr().out
    assert not (root / "_build").exists()  # which is the book of the recorded results as they are


def test_contents_that_name_a_missing_page_are_refused(root):
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters:\n- file: book/gone\n")
    with pytest.raises(UserError, match="book/gone"):
        build.build(root=root)


def test_the_checks_see_what_a_page_would_load(tmp_path):
    (tmp_path / "b.html").write_text("<p id='here'></p>")
    (tmp_path / "a.html").write_text(
        "<script src='https://example.org/x.js'></script><link rel='stylesheet' href='//example.org/x.css'>"
        "<img src='gone.png' alt='it'><a href='b.html#here'>1</a><a href='b.html#there'>2</a>"
        "<a href='https://example.org'>3</a><a href='c.html'>4</a><img src='b.html' alt=''>"
    )
    found = check.check_html(tmp_path, ["a", "b"])
    assert len(found) == 6 and all(line.startswith("a: ") for line in found)
    assert not any("#here" in line or line.endswith("example.org") for line in found)
