// Tables sort on a click of a heading and filter where they say so; search shows no page excerpts where the browser may not read files.
"use strict";

if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

const number = (text) => {
  const found = text.replace("−", "-").match(/-?\d+(\.\d+)?/);
  return found ? parseFloat(found[0]) : NaN;
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
      const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      heads.forEach((other) => other?.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const text = (row) => row.cells[column].textContent.trim();
      const empty = (row) => Number.isNaN(number(text(row)));
      const rows = [...body.rows].sort((a, b) => (empty(a) || empty(b) ? 1 : sign) * compare(text(a), text(b)));
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
    const values = [...new Set(rows.map((row) => row.cells[column].textContent.trim()))];
    select.append(new Option("all", ""), ...values.filter(Boolean).map((value) => new Option(value, value)));
    return [add(name, select), column];
  });
  function apply() {
    const words = search.value.toLowerCase().split(/\s+/);
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word)) && choices.every(([select, column]) => !select.value || row.cells[column].textContent.trim() === select.value));
    });
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  }
  box.append(count);
  table.closest(".distill-shown").prepend(box);
  apply();
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
});
