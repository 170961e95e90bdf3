"use strict";
// Sorting and filtering of tables, opening of units. Without it the page reads the same, unsorted.
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    return "key" in cell.dataset ? Number(cell.dataset.key) : cell.textContent;
  };
  const compare = (a, b) => {
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return typeof a === "number" ? a - b : a.localeCompare(b);
  };
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => compare(key(a, column), key(b, column)));
      body.append(...(down ? rows.reverse() : rows));
    });
  });
  const field = document.querySelector(`[data-filters="${table.id}"]`);
  const count = document.querySelector(`[data-counts="${table.id}"]`);
  field.closest(".tools").hidden = false;
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = wanted.length
      ? `${shown} of ${body.rows.length} rows`
      : `${body.rows.length} rows`;
  });
}
// A link to a unit opens it and takes the keyboard there.
const openLinked = () => {
  const unit = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!unit || !unit.matches("details.unit")) return;
  unit.open = true;
  unit.querySelector("summary").focus({ preventScroll: true });
  unit.scrollIntoView();
};
addEventListener("hashchange", openLinked);
for (const link of document.querySelectorAll('td a[href^="#"]')) {
  link.addEventListener("click", () => setTimeout(openLinked)); // again, if it was closed since
}
openLinked();
for (const button of document.querySelectorAll("[data-all]")) {
  button.closest(".tools").hidden = false;
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-pressed") !== "true";
    for (const unit of document.querySelectorAll("details.unit")) unit.open = open;
    button.setAttribute("aria-pressed", String(open));
  });
}
