// The table of encoders can be narrowed: by words, and by what stands in some of its columns.
document.addEventListener("DOMContentLoaded", () => {
  // What a screen reader and a keyboard need and the theme lacks.
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((wide) => wide.setAttribute("tabindex", "0"));
  const FILTERS = ["trained on", "access"];
  for (const table of document.querySelectorAll(".md-content table")) {
    const heads = [...table.querySelectorAll("th")].map((head) => head.textContent.trim());
    if (!FILTERS.every((name) => heads.includes(name))) continue;
    const rows = [...table.querySelectorAll("tbody tr")];
    const cell = (row, name) => row.cells[heads.indexOf(name)].textContent.trim();
    const bar = document.createElement("form");
    bar.className = "encoder-filters";
    bar.addEventListener("submit", (event) => event.preventDefault());
    const add = (label, control) => {
      const wrap = document.createElement("label");
      wrap.append(label + " ", control);
      bar.append(wrap);
      control.addEventListener("input", narrow);
      return control;
    };
    const words = add("words", Object.assign(document.createElement("input"), { type: "search" }));
    const choices = FILTERS.map((name) => {
      const select = document.createElement("select");
      const values = [...new Set(rows.map((row) => cell(row, name)))].sort();
      select.append(new Option("any", ""), ...values.map((value) => new Option(value, value)));
      return [name, add(name, select)];
    });
    const free = add("commercial use allowed", Object.assign(document.createElement("input"), { type: "checkbox" }));
    const count = document.createElement("output");
    bar.append(count);
    function narrow() {
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const keep =
          words.value.toLowerCase().split(/\s+/).every((word) => text.includes(word)) &&
          choices.every(([name, select]) => !select.value || cell(row, name) === select.value) &&
          (!free.checked || !/not commercial|use unclear/.test(cell(row, "licence")));
        row.hidden = !keep;
        shown += keep;
      }
      count.value = `${shown} of ${rows.length} encoders`;
    }
    narrow();
    table.closest(".md-typeset__scrollwrap, table").before(bar);
  }
});
