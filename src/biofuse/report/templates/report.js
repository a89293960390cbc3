"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const fine = matchMedia("(pointer: fine)");
  const tip = document.getElementById("tip");
  const said = document.getElementById("said");
  const SHOWN = 10; // rows of a filtered table before it is asked for all of them

  // --- colours

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    const palette = [];
    while (of(`c${palette.length}`)) palette.push(of(`c${palette.length}`));
    return { text: of("text"), quiet: of("quiet"), grid: of("grid"), line: of("quiet"), muted: of("muted"), emphasis: of("emphasis"),
      palette, sequential: [of("low"), of("high")], diverging: [of("below"), of("middle"), of("above")] };
  }

  function scale(colours) {
    return colours.map((colour, place) => [place / (colours.length - 1), colour]);
  }

  function painted(figure, colours, width) {
    const narrow = width < 480;
    const data = figure.data.map((trace) => {
      const role = trace.meta.role;
      if (role === "sequential" || role === "diverging") {
        const bar = { ...trace.colorbar, tickfont: { color: colours.quiet }, title: { ...trace.colorbar.title, font: { color: colours.quiet } } };
        const crowded = (width - 130) / trace.x.length < 38; // pixels of a cell
        return { ...trace, colorscale: scale(colours[role]), colorbar: bar, showscale: width > 640, texttemplate: crowded ? "" : trace.texttemplate };
      }
      const colour = typeof role === "number" ? colours.palette[role % colours.palette.length] : colours[role];
      const own = { ...trace, marker: { ...trace.marker, color: colour } };
      if (trace.type === "scatter") own.line = { ...trace.line, color: colour };
      if (trace.error_x) own.error_x = { ...trace.error_x, color: colour };
      if (trace.error_y) own.error_y = { ...trace.error_y, color: colour };
      if (trace.fill) own.fillcolor = `${colour}29`; // an alpha of .16
      return own;
    });
    const layout = { ...figure.layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { ...figure.layout.font, color: colours.text, family: getComputedStyle(document.body).fontFamily, size: narrow ? 12 : 13 },
      hoverlabel: { align: "left" } };
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      layout[name] = { ...layout[name], gridcolor: colours.grid, linecolor: colours.grid };
      if (narrow && layout[name].ticktext) {
        layout[name].ticktext = layout[name].ticktext.map(shortened);
      }
    }
    layout.shapes = (layout.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: colours.quiet, width: 1.5 } }));
    if (figure.sheet || layout.yaxis.fixedrange === false) layout.dragmode = fine.matches ? "zoom" : false;
    return { data, layout };
  }

  function shortened(words) { // which are HTML: what they say is counted
    const said = plain(words);
    const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
    return said.length > 16 ? `${escaped(said.slice(0, 7))}…${escaped(said.slice(-8))}` : words;
  }

  function brightness(colour) { // relative luminance as in WCAG 2
    const linear = (share) => (share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
    const [red, green, blue] = colour.map((part) => linear(part / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }

  // What is written on a heat map is black or white, whichever stands out more; Plotly's own choice is too faint.
  function ink(plot) {
    const { colorscale, zmin, zmax } = plot.data[0];
    const colours = colorscale.map(([, colour]) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16)));
    for (const label of plot.querySelectorAll(".heatmap-label text")) {
      const at = Math.max(0, Math.min(1, (label.__data__.z - zmin) / (zmax - zmin))) * (colours.length - 1);
      const below = Math.min(Math.floor(at), colours.length - 2);
      const behind = colours[below].map((part, index) => part + (colours[below + 1][index] - part) * (at - below));
      label.style.fill = brightness(behind) > 0.179 ? "#000" : "#fff"; // where both have the same contrast
    }
  }

  // --- figures

  const config = { displayModeBar: false, displaylogo: false, responsive: true, showTips: false, scrollZoom: false };

  function draw(plot) {
    const figure = figures[plot.dataset.figure];
    const { data, layout } = painted(figure, theme(), plot.clientWidth);
    const first = !plot.dataset.drawn;
    plot.dataset.drawn = "yes";
    plot.style.minHeight = `${layout.height}px`;
    return Plotly.react(plot, data, layout, config).then(() => {
      if (first && plot.getAttribute("role") === "application") interactive(plot, figure);
      if (!data[0].colorscale) return;
      ink(plot);
      if (first) plot.on("plotly_afterplot", () => ink(plot));
    });
  }

  const plots = [...document.querySelectorAll(".plot")];
  for (const plot of plots) plot.style.minHeight = `${figures[plot.dataset.figure].layout.height}px`;
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      watcher.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "600px" });
  for (const plot of plots) watcher.observe(plot);

  const redraw = () => plots.filter((plot) => plot.dataset.drawn).forEach(draw);
  dark.addEventListener("change", redraw);
  matchMedia("(max-width: 40rem)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => {
    for (const more of document.querySelectorAll("details.more:not([open])")) {
      more.open = true;
      more.dataset.printed = "yes";
    }
    document.documentElement.dataset.printing = "yes"; // paper is white
    for (const plot of plots) {
      watcher.unobserve(plot);
      draw(plot);
      Plotly.relayout(plot, { width: 680 });
    }
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.printing;
    for (const more of document.querySelectorAll("details.more[data-printed]")) {
      more.open = false;
      delete more.dataset.printed;
    }
    for (const plot of plots) {
      Plotly.relayout(plot, { width: null, autosize: true });
      draw(plot);
    }
  });

  // --- pictures of figures: 6.5 inches wide at 300 dpi

  const WIDTH = 1950;
  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => {
      const plot = document.querySelector(`.plot[data-figure="${button.dataset.save}"]`);
      const { width, height } = plot.getBoundingClientRect();
      const drawn = { data: plot.data, layout: { ...plot.layout, paper_bgcolor: getComputedStyle(document.body).backgroundColor } };
      Plotly.downloadImage(drawn, { format: "png", filename: button.dataset.save, width, height, scale: WIDTH / width });
    });
  }

  // --- images, enlarged on click; arrow keys go to the next of the same gallery

  const zoom = document.getElementById("zoom");
  const enlarged = document.createElement("img");
  zoom.querySelector("figure").prepend(enlarged);
  let album = [];
  let place = 0;

  function enlarge(step = 0) {
    place = (place + step + album.length) % album.length;
    enlarged.src = album[place].src;
    enlarged.alt = album[place].alt;
    zoom.querySelector("figcaption").textContent = album[place].closest("figure").querySelector("figcaption").textContent;
    if (!zoom.open) zoom.showModal();
  }

  for (const image of document.querySelectorAll(".gallery img")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => {
      album = [...image.closest(".gallery").querySelectorAll("img")];
      place = album.indexOf(image);
      enlarge();
    });
  }
  zoom.addEventListener("click", (event) => {
    if (event.target === zoom || event.target.closest(".close")) zoom.close();
  });
  zoom.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) enlarge(step);
  });

  // --- thumbnails, by pointer, finger and keyboard

  function plain(words) {
    const holder = document.createElement("textarea"); // decodes entities, runs nothing
    holder.innerHTML = words;
    return holder.value;
  }

  function show(figure, point, x, y) {
    const words = plain(point.data.text[point.pointNumber]);
    const tile = tip.querySelector(".tile");
    const place = figure.sheet && point.data.customdata ? point.data.customdata[point.pointNumber] : -1;
    tile.hidden = place < 0;
    if (place >= 0) {
      const { source, side, columns, rows } = figure.sheet;
      const size = 96;
      const zoom = size / side;
      Object.assign(tile.style, { width: `${size}px`, height: `${size}px`,
        backgroundSize: `${columns * side * zoom}px ${rows * side * zoom}px`,
        backgroundPosition: `${-(place % columns) * size}px ${-Math.floor(place / columns) * size}px` });
      if (!tile.style.backgroundImage) tile.style.backgroundImage = `url("${source}")`;
    }
    tip.querySelector(".words").textContent = words;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
    tip.style.top = `${Math.max(4, y + 14 + box.height > innerHeight ? y - box.height - 14 : y + 14)}px`;
    return words;
  }

  function hide() {
    tip.hidden = true;
  }

  function interactive(plot, figure) {
    if (figure.sheet) {
      plot.on("plotly_hover", (event) => {
        const source = event.event || {};
        if (source.clientX !== undefined) show(figure, event.points[0], source.clientX, source.clientY);
      });
      plot.on("plotly_unhover", hide);
      addEventListener("scroll", hide, { passive: true });
    }
    const traces = figure.data.flatMap((trace, curveNumber) =>
      (trace.text || []).map((_, pointNumber) => ({ curveNumber, pointNumber, x: trace.x[pointNumber] })));
    traces.sort((a, b) => a.x - b.x); // from left to right
    let at = -1;
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step || !traces.length) return;
      event.preventDefault();
      at = (at + step + traces.length) % traces.length;
      const { curveNumber, pointNumber } = traces[at];
      const data = plot.data[curveNumber];
      const box = plot.getBoundingClientRect();
      const { xaxis, yaxis } = plot._fullLayout;
      const x = box.left + xaxis._offset + xaxis.l2p(data.x[pointNumber]);
      const y = box.top + yaxis._offset + yaxis.l2p(data.y[pointNumber]);
      said.textContent = show(figure, { data, pointNumber }, x, y);
    });
    plot.addEventListener("blur", hide);
  }

  // --- tables: sorted by any column, filtered by words

  function key(row, column) {
    const cell = row.cells[column];
    const number = cell.querySelector("data");
    if (number) return Number(number.value);
    return cell.classList.contains("number") ? null : cell.textContent.trim().toLowerCase();
  }

  function sortable(table) {
    const body = table.tBodies[0];
    if (body.rows.length < 2 || !table.querySelector("th.number")) return;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const numeric = head.classList.contains("number");
        const before = head.getAttribute("aria-sort");
        const down = before ? before === "ascending" : numeric; // numbers start with the largest
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].map((row) => [key(row, column), row]);
        const absent = (value) => value === null || value === "";
        rows.sort(([a], [b]) => {
          if (absent(a) || absent(b)) return absent(a) - absent(b); // what has no value is last either way
          const order = typeof a === "number" ? a - b : a.localeCompare(b);
          return down ? -order : order;
        });
        body.append(...rows.map(([, row]) => row));
        table.dispatchEvent(new Event("change"));
      });
    });
  }

  function filtered(table) {
    const tools = document.createElement("div");
    tools.className = "tools";
    const label = document.createElement("label");
    const input = document.createElement("input");
    const all = document.createElement("button");
    const count = document.createElement("output");
    input.type = "search";
    input.placeholder = "words; -word leaves out";
    label.append("Filter", input);
    all.type = "button";
    count.setAttribute("aria-live", "polite");
    tools.append(label, all, count);
    table.closest(".scroll").before(tools);
    let whole = false;
    const update = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let found = 0;
      for (const row of table.tBodies[0].rows) {
        const names = [...row.cells].filter((cell) => !cell.classList.contains("number")).map((cell) => cell.textContent).join(" ").toLowerCase();
        const fits = words.every((word) =>
          word.startsWith("-") && word.length > 1 ? !names.includes(word.slice(1)) : names.includes(word));
        found += fits;
        row.hidden = !fits || (!whole && found > SHOWN);
      }
      const total = table.tBodies[0].rows.length;
      const shown = whole ? found : Math.min(found, SHOWN);
      count.textContent = `${shown} of ${found} rows shown${found < total ? ` (${total} in all)` : ""}`;
      all.hidden = found <= SHOWN;
      all.textContent = whole ? `Show ${SHOWN}` : `Show all ${found}`;
    };
    input.addEventListener("input", update);
    table.addEventListener("change", update);
    all.addEventListener("click", () => {
      whole = !whole;
      update();
    });
    update();
  }

  for (const table of document.querySelectorAll("table")) {
    sortable(table);
    if (table.hasAttribute("data-filtered")) filtered(table);
  }
  document.documentElement.dataset.ready = "yes";
})();
