/* Tables: numbers to the right; long tables sort by a click on a heading and download as CSV.
   Without this script every table is still there, in the order of its rows. And names for the
   buttons that the theme leaves without one. */
(() => {
  const LONG = 8; // rows from which sorting and downloading are worth their buttons
  const NUMBER = /^[-−+±]?\d[\d,]*(\.\d+)?( ?%)?( ?\[[^\]]*\])?$/; // perhaps with its interval

  const text = (cell) => (cell ? cell.innerText.trim().replace(/\s+/g, " ") : "");
  const number = (shown) => parseFloat(shown.replace("−", "-").replace(/[,+±]/g, ""));
  const bodyRows = (table) => [...table.tBodies].flatMap((body) => [...body.rows]);

  function alignNumbers(table) {
    const rows = bodyRows(table);
    const width = Math.max(...rows.map((row) => row.cells.length));
    for (let column = 0; column < width; column++) {
      const cells = rows.map((row) => row.cells[column]).filter((cell) => text(cell));
      if (!cells.length || !cells.every((cell) => NUMBER.test(text(cell)))) continue;
      const heads = [...(table.tHead?.rows ?? [])].map((row) => row.cells[column]);
      for (const cell of [...cells, ...heads]) cell?.classList.add("number");
    }
  }

  function compare(a, b) {
    if (NUMBER.test(a) && NUMBER.test(b)) return number(a) - number(b);
    return a.localeCompare(b, "en", { numeric: true });
  }

  function sortBy(table, column, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    const rows = bodyRows(table);
    const empty = (row) => text(row.cells[column]) === "";
    rows.sort((a, b) => {
      if (empty(a) !== empty(b)) return empty(a) - empty(b); // nothing known stays last
      const order = compare(text(a.cells[column]), text(b.cells[column]));
      return down ? -order : order;
    });
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].append(...rows);
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows].at(-1).cells;
    [...heads].forEach((head, column) => {
      if (!text(head)) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sortBy(table, column, head));
      head.append(button);
    });
  }

  function csv(table) {
    const quoted = (cell) => `"${text(cell).replaceAll('"', '""')}"`;
    return [...table.rows].map((row) => [...row.cells].map(quoted).join(",")).join("\r\n") + "\r\n";
  }

  function addDownload(table, place) {
    const name = table.closest("section")?.id || "table";
    const link = document.createElement("a");
    link.className = "table-csv";
    link.download = `${name}.csv`;
    link.textContent = "CSV";
    link.setAttribute("aria-label", `Download this table as ${name}.csv`);
    link.href = "#";
    link.addEventListener("click", () => {
      link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    });
    place.after(link);
  }

  function scrollBox(table) {
    const around = table.parentElement.classList.contains("pst-scrollable-table-container");
    if (around) return table.parentElement;
    const box = document.createElement("div");
    box.className = "pst-scrollable-table-container";
    table.replaceWith(box);
    box.append(table);
    return box;
  }

  function regular(table) { // one cell a column: nothing spans, nothing is nested
    return table.tHead && table.tBodies.length === 1 &&
      !table.querySelector("[rowspan]:not([rowspan='1']), [colspan]:not([colspan='1']), table");
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const toggle of document.querySelectorAll(".toctree-toggle")) {
      toggle.parentElement.setAttribute("aria-label", "Show or hide the pages of this chapter");
    }
    for (const table of document.querySelectorAll(".bd-article table:not(.field-list)")) {
      const box = scrollBox(table);
      alignNumbers(table);
      if (regular(table) && bodyRows(table).length >= LONG) {
        makeSortable(table);
        addDownload(table, box);
      }
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; // reachable by keyboard
    }
  });
})();
