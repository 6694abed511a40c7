"use strict";
const announcement = document.getElementById("announcement");

function compare(a, b) {
  const [x, y] = [a.dataset.number, b.dataset.number];
  if (x !== undefined && y !== undefined) return Number(x) - Number(y);
  return a.textContent.localeCompare(b.textContent, "en", { numeric: true });
}

function sort(table, heading) {
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  const column = heading.cellIndex;
  const numbers = heading.classList.contains("number");
  const missing = (cell) => (numbers ? cell.dataset.number === undefined : cell.textContent === "–");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  rows.sort((one, other) => {
    const [a, b] = [one.cells[column], other.cells[column]];
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return ascending ? compare(a, b) : compare(b, a);
  });
  body.append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  announcement.textContent = `Sorted by ${heading.textContent}, ${ascending ? "ascending" : "descending"}`;
}

for (const table of document.querySelectorAll("table.sortable")) {
  if (table.tBodies[0].rows.length < 2) continue;
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, heading));
    heading.append(button);
  }
}

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const each of opened) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of opened) each.open = false;
});
