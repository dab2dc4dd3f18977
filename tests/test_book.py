"""The recorded book is whole and needs nothing from outside; a book with a problem is refused with page and reason."""

import functools
import http.server
import shutil
import threading
import urllib.parse

import nbformat
import pytest
from test_notebooks import write

from distill_lib.core import paths
from distill_lib.core.errors import UserError
from distill_lib.publish import build, check, pages

PAGES = build._contents(paths.ROOT)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
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
            page.evaluate(
                "async () => { while (!window.MathJax?.startup?.promise) await new Promise(r => setTimeout(r, 20)); await MathJax.startup.promise; }"
            )
        formulas = page.evaluate(
            "[document.querySelectorAll('.math').length,"
            " [...document.querySelectorAll('.math')].filter(m => m.querySelector('mjx-container') && !m.querySelector('[data-mml-node=merror]')).length]"
        )
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
        page.set_viewport_size(PHONE)
        seen[name]["overflow"] = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        page.close()
    return seen


# --- the recorded book ------------------------------------------------------------------------------------------------
def test_every_page_of_the_contents_is_there_without_problems(html):
    assert check.check_html(html, PAGES) == []
    assert sum(f.stat().st_size for f in html.rglob("*") if f.is_file()) <= 40 * 2**20


def test_every_notebook_s_page_shows_what_it_computed(html):
    for page in pages.notebooks():
        assert "cell_output" in (html / f"{page.name}.html").read_text(), page.shown


@pytest.mark.parametrize("page", pages.notebooks(), ids=lambda p: p.shown)
def test_every_notebook_s_page_says_how_it_is_made(html, page):
    text = (html / f"{page.name}.html").read_text()
    assert text.count('id="made-by"') == 1 and f"papermill {page.name}.ipynb out.ipynb -p profile recorded" in text
    said, name = text.partition('id="made-by"')[2], page.name.removeprefix("notebooks/")
    kept = [f for f in (paths.results("small") / name).glob("*") if f.is_file()]
    records = sum(f.suffix == ".json" and '"made_by"' in f.read_text() for f in kept)
    assert (f"tree/main/results/small/{name}" in said) == bool(kept)
    assert (f": {records} record" in said) if records else ("each with settings, seeds" not in said)
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
def test_a_page_is_downloaded_as_a_notebook_that_can_be_run(server, browser, name):
    """A text page becomes a notebook with the same cells."""
    page = next(p for p in pages.live(paths.ROOT, PAGES) if p.name == name)
    tab = browser.new_page()
    tab.goto(f"{server[0]}/{name}.html")
    tab.locator(".dropdown-download-buttons > button").first.click()
    with tab.expect_download() as download:
        tab.locator(".dropdown-download-buttons a[href$='.ipynb']").first.click()
    assert download.value.suggested_filename == f"{name.rpartition('/')[2]}.ipynb"
    got = nbformat.read(download.value.path(), as_version=4)
    nbformat.validate(got)
    assert [(c.cell_type, c.source) for c in got.cells] == [(c.cell_type, c.source) for c in page.notebook().cells]
    assert any(c.cell_type == "code" for c in got.cells) and not any(c.get("outputs") for c in got.cells)
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
    cut = "[...document.querySelectorAll('.distill-scroll')].filter(b => getComputedStyle(b).overflowY !== 'visible' || b.scrollHeight > b.clientHeight + 1).length"
    assert page.evaluate(cut) == 0
    pdf = page.pdf(format="A4")
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
    page.goto((html / "book" / "intro.html").as_uri())
    with page.expect_download() as download:
        page.locator("a[download$='.csv']").first.click()
    text = download.value.path().read_text()
    assert text.startswith("table or figure,") and "skd/table1_accuracy" in text
    page.close()


def test_a_page_can_be_read_with_the_keyboard_alone(html, browser):
    """Tab reaches a table's sorting, its scrolling box and the next page; Enter sorts."""
    page = browser.new_page()
    page.goto((html / "book" / "intro.html").as_uri())
    page.locator("table.distill-table th button.distill-sort").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort]").count() == 1
    assert page.evaluate("[...document.querySelectorAll('.distill-scroll')].every(box => box.tabIndex === 0)")
    page.close()


def test_a_table_sorts_by_the_heading_clicked(html, browser):
    page = browser.new_page()
    page.goto((html / "book" / "intro.html").as_uri())
    button = page.locator("table.distill-table th button.distill-sort").nth(1)
    column = "[...document.querySelector('table.distill-table').tBodies[0].rows].map(r => parseFloat(r.cells[1].textContent))"
    button.click()
    first = page.evaluate(column)
    button.click()
    second = page.evaluate(column)
    assert first == sorted(first, reverse=True) and second == sorted(second) and first != second
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
    intro.write_text(
        "# Intro\n\n[gone](nowhere.md) {doc}`missing` ![](none.png)\n\n<a href='x.html'>y</a> <img src='https://example.org/a.png' alt='a'>\n"
    )
    for _ in range(2):
        with pytest.raises(UserError) as refused:
            build.build(root=root)
        message = str(refused.value)
        for problem in (
            "nowhere.md",
            "unknown document: 'missing'",
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
    assert not (root / "_build").exists()


def test_contents_that_name_a_missing_page_are_refused(root):
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/intro\nchapters:\n- file: book/gone\n")
    with pytest.raises(UserError, match="book/gone"):
        build.build(root=root)


def test_the_checks_see_what_a_page_would_load(tmp_path):
    (tmp_path / "b.html").write_text("<p id='here'></p>")
    (tmp_path / "a.html").write_text(
        "<script src='https://example.org/x.js'></script><link rel='stylesheet' href='//example.org/x.css'><img src='gone.png' alt='it'>"
        "<a href='b.html#here'>1</a><a href='b.html#there'>2</a><a href='https://example.org'>3</a><a href='c.html'>4</a><img src='b.html' alt=''>"
    )
    found = check.check_html(tmp_path, ["a", "b"])
    assert len(found) == 6 and all(line.startswith("a: ") for line in found)
    assert not any("#here" in line or line.endswith("example.org") for line in found)
