// Tables sort and filter, numbers are copied with their address, pictures move under a slider, and the explorer draws
// what is chosen. Nothing is loaded from anywhere. Search shows no excerpts where the browser may not read files.
"use strict";

if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// The number that a text starts with, commas between thousands left out.
const number = (text) => {
  const found = text.trim().replace("−", "-").replace(/,(?=\d{3}(?!\d))/g, "").match(/^[≤≥<>]?\s*([+-]?\d+(\.\d+)?)/);
  return found ? parseFloat(found[1]) : NaN;
};

function compare(a, b) {
  const [x, y] = [number(a), number(b)];
  if (Number.isNaN(x) && Number.isNaN(y)) return a.localeCompare(b);
  if (Number.isNaN(x)) return 1; // "not run" below the numbers
  if (Number.isNaN(y)) return -1;
  return x - y;
}

function sortable(table) {
  const body = table.tBodies[0];
  if (!body || !table.tHead || body.rows.length < 3 || table.querySelector("tbody [rowspan], tbody [colspan]")) return;
  const headings = [...table.tHead.rows].reverse(); // below its headings a table may name its first column in a row of its own
  const heads = [...body.rows[0].cells].map((_, column) =>
    headings.filter((row) => row.cells.length === body.rows[0].cells.length).map((row) => row.cells[column]).find((cell) => cell.textContent.trim()));
  heads.forEach((head, column) => {
    if (!head) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "distill-sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const text = (row) => said(row.cells[column]);
      const empty = (row) => Number.isNaN(number(text(row)));
      const before = head.getAttribute("aria-sort") ?? ([...body.rows].every(empty) ? "descending" : ""); // words begin with A
      const sign = before === "descending" ? 1 : -1;
      heads.forEach((other) => other?.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => (empty(a) !== empty(b) ? 1 : sign) * compare(text(a), text(b)));
      body.append(...rows);
    });
  });
}

// Columns of words read from the left, and wrap.
function words(table) {
  const rows = [...(table.tBodies[0]?.rows ?? [])];
  const heads = [...(table.tHead?.rows ?? [])].filter((row) => row.cells.length === rows[0]?.cells.length);
  for (let column = 0; column < (rows[0]?.cells.length ?? 0); column++) {
    const cells = rows.map((row) => row.cells[column]).filter((cell) => cell?.textContent.trim());
    if (cells.some((cell) => /^[+\-−]?\d/.test(cell.textContent.trim())) || cells.every((cell) => cell.matches(".not-run"))) continue;
    [...cells, ...heads.map((row) => row.cells[column])].forEach((cell) => cell.classList.add("text"));
  }
}

// A search box, and a choice for each column that data-filters names; rows that do not fit are hidden.
function filterable(table) {
  const rows = [...table.tBodies[0].rows];
  const names = [...table.tHead.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim())).find((heads) => heads.length === rows[0]?.cells.length);
  const columns = table.dataset.filters.split("|").map((name) => [name, names?.indexOf(name) ?? -1]).filter(([, column]) => column >= 0);
  const box = document.createElement("div");
  box.className = "distill-filters";
  const add = (label, input) => {
    const field = document.createElement("label");
    field.append(label, input);
    box.append(field);
    input.addEventListener("input", apply);
    return input;
  };
  const count = document.createElement("output");
  const search = add("search", Object.assign(document.createElement("input"), { type: "search" }));
  const choices = columns.map(([name, column]) => {
    const select = document.createElement("select");
    const values = [...new Set(rows.map((row) => said(row.cells[column])))];
    select.append(new Option("all", ""), ...values.filter(Boolean).map((value) => new Option(value, value)));
    return [add(name, select), column];
  });
  function apply() {
    const words = search.value.toLowerCase().split(/\s+/);
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word)) && choices.every(([select, column]) => !select.value || said(row.cells[column]) === select.value));
    });
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  }
  box.append(count);
  table.closest(".distill-shown").prepend(box);
  apply();
}

// What a cell says, without the buttons in it.
function said(cell) {
  const copy = cell.cloneNode(true);
  copy.querySelectorAll(".distill-copy, .distill-record").forEach((part) => part.remove());
  return copy.textContent.trim();
}

// Tables that take the margin, as far as they are in view, fold the list of contents that stands there. The theme does
// so for cells that are wide from the start.
const inMargin = new Set();
const margin = new IntersectionObserver(
  (entries) => {
    entries.forEach((e) => inMargin[e.isIntersecting ? "add" : "delete"](e.target));
    document.querySelector("div.bd-sidebar-secondary")?.classList.toggle("distill-beneath", inMargin.size > 0);
  },
  { rootMargin: "0px 0px -33% 0px" },
);

// A table that goes on behind an edge of its box fades there; one that is wider than the text takes the margin too.
function edges(box) {
  const look = () => {
    const more = box.scrollWidth - box.clientWidth;
    box.classList.toggle("more-right", more > 1 && box.scrollLeft < more - 1);
    box.classList.toggle("more-left", more > 1 && box.scrollLeft > 1);
  };
  const cell = box.closest("div.cell");
  if (cell && box.scrollWidth > box.clientWidth + 1) {
    cell.classList.add("tag_full-width");
    margin.observe(cell);
  }
  box.addEventListener("scroll", look, { passive: true });
  const observer = new ResizeObserver(look);
  [box, ...box.children].forEach((part) => observer.observe(part));
  look();
}

function copied(button, text) {
  button.dataset.symbol ??= button.textContent;
  const done = () => {
    button.textContent = "✓";
    setTimeout(() => (button.textContent = button.dataset.symbol), 1200);
  };
  const selected = () => {
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    done();
  };
  return navigator.clipboard ? navigator.clipboard.writeText(text).then(done).catch(selected) : selected();
}

function addresses(button) {
  button.addEventListener("click", () => {
    const row = button.closest("tr");
    const page = location.href.split("#")[0];
    copied(button, `${button.dataset.copy}; ${page}${row?.id ? `#${row.id}` : ""}`);
  });
}

function hiddenColumns(button) {
  const text = button.textContent;
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    const shown = button.closest(".distill-shown");
    const all = shown.classList.toggle("all");
    button.setAttribute("aria-pressed", String(all));
    button.textContent = all ? "fewer columns" : text;
    shown.querySelectorAll(".distill-scroll").forEach((box) => box.dispatchEvent(new Event("scroll")));
  });
}

// One slider moves all sets to the same share of their steps.
function film(box) {
  const slider = box.querySelector("input");
  const reels = [...box.querySelectorAll(".reel")].map((reel) => [reel, JSON.parse(reel.dataset.moments)]);
  const show = () => reels.forEach(([reel, moments]) => {
    const at = Math.min(Number(slider.value), moments.length - 1);
    reel.querySelector(".frame").style.backgroundPositionY = `${(100 * at) / Math.max(1, moments.length - 1)}%`;
    reel.querySelector("output").textContent = `step ${moments[at][0].toLocaleString("en")}: ${moments[at][1].toFixed(1)} %`;
  });
  slider.addEventListener("input", show);
  show();
}

// The explorer: choices that narrow each other, a chart, and the same numbers as a table.
function explorer(box) {
  const all = JSON.parse(box.querySelector("script").textContent);
  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const axes = ["data", "images per class", "profile", "protocol", "network"];
  let asked, off;
  const form = make("form", { className: "distill-filters" });
  const selects = axes.map((axis) => {
    const select = make("select", { name: axis });
    form.append(make("label", {}, axis, select));
    return select;
  });
  const methods = make("fieldset", {}, make("legend", { textContent: "methods" }));
  const result = make("div", { className: "result" });
  result.setAttribute("aria-live", "polite");
  box.append(form, methods, result);
  form.addEventListener("submit", (event) => event.preventDefault());

  function read() {
    asked = new URLSearchParams(location.hash.slice(1));
    off = new Set((asked.get("without") ?? "").split("|").filter(Boolean));
    selects.forEach((select) => select.replaceChildren());
    draw();
  }

  // Of the rows that the choices before it leave, a choice offers the values that occur, the most frequent first.
  function narrow() {
    let rows = all;
    axes.forEach((axis, i) => {
      const counts = new Map();
      rows.forEach((row) => counts.set(row[axis], (counts.get(row[axis]) ?? 0) + 1));
      const values = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
      const wanted = selects[i].value || asked.get(axis);
      selects[i].replaceChildren(...values.map((value) => new Option(value, value)));
      selects[i].value = values.includes(wanted) ? wanted : values[0];
      rows = rows.filter((row) => row[axis] === selects[i].value);
    });
    return rows;
  }

  function draw() {
    const rows = narrow().sort((a, b) => b.mean - a.mean);
    methods.replaceChildren(methods.firstChild, ...[...new Set(rows.map((row) => row.method))].map((method) => {
      const tick = make("input", { type: "checkbox", checked: !off.has(method), value: method });
      tick.addEventListener("change", () => { off[tick.checked ? "delete" : "add"](method); show(rows); });
      return make("label", {}, tick, method);
    }));
    show(rows);
  }

  function show(rows) {
    const chosen = rows.filter((row) => !off.has(row.method));
    const state = new URLSearchParams(selects.map((select) => [select.name, select.value]));
    if (off.size) state.set("without", [...off].join("|"));
    history.replaceState(null, "", `#${state}`);
    result.replaceChildren(chosen.length ? chart(chosen) : make("p", { textContent: "Choose at least one method." }), table(chosen));
  }

  const percent = (value) => (value === null ? "" : value.toFixed(1));
  const spread = (row) => (row.std === null ? percent(row.mean) : `${percent(row.mean)} ± ${percent(row.std)}`);

  function chart(rows) {
    const phone = box.clientWidth < 500;
    const line = 24, left = phone ? 120 : 190, wide = phone ? 380 : 640, top = 8;
    const highest = Math.max(...rows.flatMap((row) => [row.mean + (row.std ?? 0), row.paper ?? 0]));
    const x = (value) => left + ((wide - left - 20) * value) / Math.ceil(highest / 10) / 10;
    const svg = (tag, attributes, text = "") => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
      made.textContent = text;
      return made;
    };
    const height = top + line * rows.length + 40;
    const drawn = svg("svg", { viewBox: `0 0 ${wide} ${height}`, role: "img", "aria-label": `Test accuracy in percent: ${rows.map((row) => `${row.method} ${percent(row.mean)}`).join(", ")}` });
    for (let at = 0; at <= Math.ceil(highest / 10) * 10; at += 10) {
      drawn.append(svg("line", { x1: x(at), x2: x(at), y1: top, y2: height - 36, class: "grid" }), svg("text", { x: x(at), y: height - 20, "text-anchor": "middle" }, at));
    }
    if (rows[0].chance) drawn.append(svg("line", { x1: x(rows[0].chance), x2: x(rows[0].chance), y1: top, y2: height - 36, class: "chance" }));
    rows.forEach((row, i) => {
      const y = top + line * (i + 0.5);
      drawn.append(svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, row.method));
      if (row.paper !== null) drawn.append(svg("line", { x1: x(row.mean), x2: x(row.paper), y1: y, y2: y, class: "between" }), svg("rect", { x: x(row.paper) - 4, y: y - 4, width: 8, height: 8, class: "paper", transform: `rotate(45 ${x(row.paper)} ${y})` }));
      if (row.std) drawn.append(svg("line", { x1: x(row.mean - row.std), x2: x(row.mean + row.std), y1: y, y2: y, class: "spread" }));
      drawn.append(svg("circle", { cx: x(row.mean), cy: y, r: 5, class: "ours" }));
    });
    drawn.append(svg("text", { x: (phone ? wide : left + wide) / 2, y: height - 4, "text-anchor": "middle" }, "test accuracy (%): ● ours, ◇ paper, dotted line chance"));
    return drawn;
  }

  function table(rows) {
    const heads = ["method", "ours", "paper", "difference", "measured on", "of", "record"];
    const body = rows.map((row) => {
      const difference = row.paper === null ? "" : `${row.mean >= row.paper ? "+" : "−"}${percent(Math.abs(row.mean - row.paper))}`;
      const name = make("th", { textContent: row.method, scope: "row" });
      const cells = [spread(row), percent(row.paper), difference, row.n, row.table].map((text, i) => make("td", { textContent: text, className: ["ours", "paper", "", "", "text"][i] }));
      return make("tr", {}, name, ...cells, make("td", {}, make("a", { href: row.record, textContent: "record" })));
    });
    const made = make("table", { className: "distill-table" }, make("caption", { textContent: `Test accuracy in percent: ${selects.map((select) => select.value).join(", ")}.` }),
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { textContent: head, scope: "col" })))), make("tbody", {}, ...body));
    const scroll = make("div", { className: "distill-scroll", tabIndex: 0 }, made);
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "The numbers of the chart");
    requestAnimationFrame(() => edges(scroll));
    return scroll;
  }
  selects.forEach((select) => select.addEventListener("input", draw));
  window.addEventListener("hashchange", () => location.hash.includes("=") && read()); // not where a heading is named
  read();
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".citation-list[role=list]").forEach((list) => list.removeAttribute("role")); // its entries are no list items
  document.querySelectorAll("summary").forEach((summary) => {
    if (!summary.textContent.trim()) summary.setAttribute("aria-label", "Show or hide the pages below"); // the theme's sidebar has an icon alone
  });
  if (location.protocol !== "file:") { // of a book on disk a browser shows the file whatever we say, and that in a tab of its own
    document.querySelectorAll(".btn-download-notebook-button, .btn-download-source-button").forEach((link) => {
      link.download = "";
      link.removeAttribute("target");
    });
  }
  document.querySelectorAll("table.distill-table[data-filters]").forEach(filterable);
  document.querySelectorAll("table.distill-table, table.dataframe").forEach(sortable);
  document.querySelectorAll("table.distill-table").forEach(words);
  document.querySelectorAll(".distill-copy").forEach(addresses);
  document.querySelectorAll(".bd-article figure").forEach((figure) => {
    if (figure.scrollWidth > figure.clientWidth + 1) figure.tabIndex = 0; // a chart on a phone: the keyboard scrolls it too
  });
  document.querySelectorAll(".distill-more").forEach(hiddenColumns);
  document.querySelectorAll(".distill-film").forEach(film);
  document.querySelectorAll(".distill-explorer").forEach(explorer);
  document.querySelectorAll(".distill-scroll, .bd-article .pst-scrollable-table-container, div.cell_output .output.text_html").forEach(edges);
});
