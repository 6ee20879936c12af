"use strict";

// A column's head sorts: rising at first, then falling; what is no number comes last.
function sort(table, column, falling) {
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column];
    const number = cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    return { row, number, text: cell.textContent.trim(), empty: cell.textContent.trim() === "–" };
  });
  keyed.sort((one, other) => {
    if (one.empty || other.empty) return one.empty - other.empty;
    const order = one.number !== null && other.number !== null
      ? one.number - other.number
      : one.text.localeCompare(other.text, undefined, { numeric: true });
    return falling ? -order : order;
  });
  body.append(...keyed.map((entry) => entry.row));
}

// Of a long table the first rows are shown, however it is sorted, until one asks for the rest.
function shorten(table) {
  const shown = Number(table.dataset.shown || Infinity);
  [...table.tBodies[0].rows].forEach((row, k) => row.classList.toggle("rest", k >= shown));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      sort(table, column, falling);
      shorten(table);
    });
  });
  const count = table.tBodies[0].rows.length;
  if (count > Number(table.dataset.shown || Infinity)) {
    shorten(table);
    const more = document.createElement("button");
    more.type = "button";
    more.className = "more";
    more.textContent = `all ${count} rows`;
    more.addEventListener("click", () => {
      delete table.dataset.shown;
      shorten(table);
      more.remove();
    });
    table.parentElement.after(more);
  }
}

// A key hides and shows its line.
for (const key of document.querySelectorAll("[data-line]")) {
  key.addEventListener("click", () => {
    const shown = key.getAttribute("aria-pressed") !== "true";
    key.setAttribute("aria-pressed", String(shown));
    document.getElementById(key.dataset.line).style.display = shown ? "" : "none";
  });
}

// A picture opens enlarged; Escape and a click close it.
const enlarged = document.getElementById("enlarged");
for (const button of document.querySelectorAll(".enlarge")) {
  button.addEventListener("click", () => {
    const image = button.querySelector("img");
    enlarged.querySelector("img").src = image.src;
    enlarged.querySelector("img").alt = image.alt;
    enlarged.showModal();
  });
}
enlarged.addEventListener("click", () => enlarged.close());
