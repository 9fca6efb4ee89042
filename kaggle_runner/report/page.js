// Draws the figures of the page, shows a trial under the pointer, and filters everything by the trials that are clicked.
"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const mouse = matchMedia("(hover: hover)").matches;
  const FADED = 0.12, ON_PAPER = 11, A_WORD = 16;
  const escaped = (value) => String(value).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function numberText(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size < 1e-3 || size >= 1e7) return value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
    if (size >= 1e4 || (size >= 1000 && Number.isInteger(value))) return Math.round(value).toLocaleString("en-US");
    return String(Number(value.toPrecision(4)));
  }
  const shown = (column, position) => {
    const value = column.cells[position];
    return value === null ? "–" : column.texts ? column.texts[position] : typeof value === "number" ? numberText(value) : String(value);
  };

  const titleOf = (column) => column.unit ? `${column.name}, ${column.unit}` : column.name;
  // A long name may be broken after its signs, and nowhere else.
  const broken = (name) => name.replace(/([_/])/g, "$1\u200b");

  function theme() {
    const axis = { gridcolor: color("--grid"), zerolinecolor: color("--line"), linecolor: color("--line") };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: color("--card"), bordercolor: color("--soft"), font: { color: color("--ink") }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--soft"), activecolor: color("--accent") },
      xaxis: axis, yaxis: axis, yaxis2: axis,
    };
  }

  const pen = document.createElement("canvas").getContext("2d");

  function layoutOf(figure) {
    const look = theme(), given = figure.layout;
    pen.font = `11px ${look.font.family}`;
    // A legend cuts off names that are wider than its entries.
    const wide = [...figure.traces, ...(given.shapes || [])].filter((one) => one.showlegend !== false)
      .map((one) => pen.measureText(one.name || "").width + 9);
    const layout = {
      margin: { l: 50, r: 14, t: 12, b: 44 }, hovermode: "closest", height: figure.height,
      dragmode: mouse ? "zoom" : false, ...look, ...given,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", entrywidth: Math.max(86, ...wide), font: { size: 11 }, ...given.legend },
    };
    layout.annotations = (given.annotations || []).map((label) => ({ ...label, bgcolor: color("--card") }));
    if (given.yaxis2) layout.yaxis2 = { ...look.yaxis2, ...given.yaxis2 };
    else delete layout.yaxis2;
    layout.xaxis = { ...look.xaxis, zeroline: false, ...given.xaxis };
    layout.yaxis = { ...look.yaxis, zeroline: false, ...given.yaxis };
    return layout;
  }

  // Parallel coordinates lie on their side on a phone: what was across is down.
  function turned(figure) {
    const { xaxis, yaxis, annotations, ...layout } = figure.layout, count = xaxis.tickvals.length;
    return { ...figure, height: 130 + 64 * count, isTurned: true,
      traces: figure.traces.map((trace) => ({ ...trace, x: trace.y, y: trace.x })),
      layout: { ...layout, xaxis: yaxis, yaxis: { ...xaxis, range: [...xaxis.range].reverse() },
        annotations: annotations.map((label, i) => ({ ...label, x: label.y, y: label.x, yshift: 9 - rowOf(i, annotations),
          xanchor: label.y < 0 ? "left" : label.y > 1 ? "right" : "center" })) } };
  }

  // Names that would lie on each other go into rows; WIDTH is about that of a plot on a phone, LETTER of a letter in it.
  function rowOf(i, labels) {
    const WIDTH = 180, LETTER = 6.4, ROW = 15, own = labels.filter((label) => label.x === labels[i].x);
    const widest = Math.max(...own.map((label) => label.text.length)) * LETTER;
    const rows = own.length < 3 ? 1 : Math.min(4, Math.ceil(widest / (WIDTH / own.length)));
    return ROW * (own.indexOf(labels[i]) % rows);
  }

  function describe(study, position) {
    const lines = study.columns.filter((column) => column.cells[position] !== null && column.cells[position] !== "")
      .map((column) => `${escaped(column.name)} <b>${escaped(shown(column, position).slice(0, 80))}</b>`
        + (column.unit ? ` ${column.unit}` : ""));
    return lines.join("<br>");
  }

  class View {
    constructor(study, section) {
      this.study = study;
      this.section = section;
      this.chosen = new Set();
      this.statuses = new Set();
      this.sorting = null;
      this.all = false;
      this.statusCells = (study.columns.find((column) => column.name === "status") || { cells: [] }).cells;
      this.cards = study.columns.length ? this.statusCells.map((_, position) => describe(study, position)) : [];
      this.makeTable();
    }

    get isFiltered() { return this.chosen.size + this.statuses.size > 0; }

    keeps(position) {
      if (this.chosen.size) return this.chosen.has(position);
      return !this.statuses.size || this.statuses.has(this.statusCells[position]);
    }

    async draw(given) {
      const place = document.getElementById(given.place);
      const figure = given.turns && place.clientWidth < 560 ? turned(given) : given;
      place.style.height = `${figure.height}px`;
      place.dataset.height = figure.height;
      const traces = figure.traces.map((trace) => {
        if (!(trace.meta && trace.meta.trials)) return trace;
        const text = trace.customdata.map((position) => position === null ? "" : this.cards[position]);
        return { ...trace, text, textposition: "none", hovertemplate: "%{text}<extra></extra>" };
      });
      const layout = layoutOf(figure);
      if (figure.turns && mouse) layout.dragmode = "select";
      const drawing = Plotly.newPlot(place, traces, layout,
        { responsive: true, displaylogo: false, displayModeBar: mouse ? "hover" : false,
          modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"] });
      place.dataset.drawn = "yes";
      await drawing;
      place.on("plotly_click", (event) => {
        const position = event.points[0] && event.points[0].customdata;
        if (typeof position === "number") this.toggle(position);
      });
      if (figure.turns) place.on("plotly_selected", (event) => this.brush(place, event, figure.isTurned));
      if (this.marks(place).length) this.walk(place);
    }

    // One mark for each trial of a plot, from left to right; of a trial that is only a line, its last point.
    marks(place) {
      const found = new Map();
      place.data.forEach((trace, curve) => {
        if (!trace.meta || !trace.meta.trials || trace.meta.highlight) return;
        const isLine = Boolean(trace.meta.lines);
        trace.customdata.forEach((position, point) => {
          if (position === null || (isLine && found.get(position)?.isLine === false)) return;
          const at = place.calcdata[curve][point];
          found.set(position, { position, curve, point, isLine, x: at.x ?? at.p, y: at.y ?? at.s });
        });
      });
      return [...found.values()].sort((a, b) => a.x - b.x || a.y - b.y);
    }

    // The keyboard goes over the marks of a plot as a pointer would: arrows move, Enter chooses.
    walk(place) {
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
      place.tabIndex = 0;
      place.setAttribute("role", "group");
      place.onblur = () => { Plotly.Fx.unhover(place); };
      place.onkeydown = (event) => {
        if ((event.key === "Enter" || event.key === " ") && place.mark !== undefined) this.toggle(place.mark);
        else if (!(event.key in steps)) return;
        else {
          const marks = this.marks(place), now = marks.findIndex((mark) => mark.position === place.mark);
          const next = marks[Math.min(marks.length - 1, Math.max(0, now < 0 && steps[event.key] === -1 ? marks.length - 1 : now + steps[event.key]))];
          place.mark = next.position;
          said.innerHTML = this.cards[next.position];  // made of escaped text, as the hover is
          Plotly.Fx.hover(place, [{ curveNumber: next.curve, pointNumber: next.point }],
            `x${place.data[next.curve].yaxis || "y"}`);
        }
        event.preventDefault();
      };
    }

    // A box over axes chooses the trials whose line crosses every axis in it inside the box.
    brush(place, event, isTurned) {
      if (!event || !event.range) return;
      const [across, along] = isTurned ? [event.range.y, event.range.x] : [event.range.x, event.range.y];
      const inside = (value, ends) => value >= Math.min(...ends) && value <= Math.max(...ends);
      const kept = new Map();
      for (const trace of place.data) {
        if (!trace.meta || !trace.meta.lines) continue;
        const at = isTurned ? trace.y : trace.x, height = isTurned ? trace.x : trace.y;
        trace.customdata.forEach((position, i) => {
          if (position === null || !inside(at[i], across)) return;
          kept.set(position, (kept.get(position) ?? true) && height[i] !== null && inside(height[i], along));
        });
      }
      Plotly.relayout(place, { selections: [] });
      if (!kept.size) return;
      this.chosen = new Set([...kept].filter(([, is]) => is).map(([position]) => position));
      this.update();
    }

    // Two to eight chosen trials side by side: only what differs between them.
    compare() {
      const place = this.section.querySelector(".compare"), chosen = [...this.chosen].sort((a, b) => a - b);
      if (!place) return;
      place.replaceChildren();
      if (chosen.length < 2 || chosen.length > 8) return;
      const table = document.createElement("table");
      for (const column of this.study.columns) {
        const cells = chosen.map((position) => shown(column, position));
        if (new Set(cells).size < 2) continue;
        const row = table.insertRow();
        [titleOf(column), ...cells].forEach((text, i) => {
          const cell = document.createElement(i ? "td" : "th");
          cell.textContent = text || "–";
          if (!i) cell.scope = "row";
          row.append(cell);
        });
      }
      table.createCaption().textContent = `${chosen.length} chosen trials: where they differ`;
      place.append(table);
    }

    toggle(position) {
      this.chosen.has(position) ? this.chosen.delete(position) : this.chosen.add(position);
      this.update();
    }

    clear() {
      this.chosen.clear();
      this.statuses.clear();
      this.update();
    }

    update() {
      this.fillTable();
      this.compare();
      for (const figure of this.study.figures) this.filterPlot(document.getElementById(figure.place));
      showBar();
    }

    filterPlot(place) {
      if (place.dataset.drawn !== "yes") return;
      const lines = { x: [], y: [], customdata: [], text: [] };
      place.data.forEach((trace, index) => {
        const meta = trace.meta || {};
        if (!meta.trials || meta.highlight) return;
        if (meta.lines) {
          if (this.isFiltered) this.collect(trace, lines);
          Plotly.restyle(place, { opacity: this.isFiltered ? FADED : meta.opacity }, [index]);
        } else if (trace.mode !== "lines") {
          const kept = trace.customdata.map((_, i) => i).filter((i) => this.keeps(trace.customdata[i]));
          Plotly.restyle(place, { selectedpoints: this.isFiltered ? [kept] : [null],
            "unselected.marker.opacity": FADED }, [index]);
        }
      });
      const highlight = place.data.findIndex((trace) => trace.meta && trace.meta.highlight);
      if (highlight >= 0) Plotly.restyle(place, Object.fromEntries(Object.entries(lines).map(([k, v]) => [k, [v]])), [highlight]);
    }

    collect(trace, lines) {
      trace.customdata.forEach((position, i) => {
        const gap = position === null;
        if (gap ? lines.x.length && lines.x[lines.x.length - 1] !== null : this.keeps(position)) {
          lines.x.push(gap ? null : trace.x[i]);
          lines.y.push(gap ? null : trace.y[i]);
          lines.customdata.push(position);
          lines.text.push(gap ? "" : this.cards[position]);
        }
      });
    }

    makeTable() {
      const table = this.section.querySelector("table.trials");
      if (!table) return;
      const head = table.tHead.rows[0];
      this.study.columns.forEach((column, index) => {
        const cell = document.createElement("th");
        cell.textContent = broken(titleOf(column));
        cell.tabIndex = 0;
        if (column.numeric) cell.className = "number";
        cell.onclick = () => this.sort(index);
        cell.onkeydown = (event) => { if (event.key === "Enter") this.sort(index); };
        head.append(cell);
      });
      const filters = this.section.querySelector(".filters");
      for (const status of [...new Set(this.statusCells)]) {
        const button = document.createElement("button");
        const count = this.statusCells.filter((other) => other === status).length;
        button.textContent = `${status} ${count}`;
        button.setAttribute("aria-pressed", "false");
        button.onclick = () => {
          this.statuses.has(status) ? this.statuses.delete(status) : this.statuses.add(status);
          this.chosen.clear();
          button.setAttribute("aria-pressed", String(this.statuses.has(status)));
          this.update();
        };
        filters.append(button);
      }
      this.count = document.createElement("span");
      filters.append(this.count);
      this.fillTable();
    }

    sort(index) {
      const descending = this.sorting && this.sorting.index === index && !this.sorting.descending;
      this.sorting = { index, descending };
      [...this.section.querySelectorAll("table.trials thead th")].forEach((cell, i) => {
        if (i === index) cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
        else cell.removeAttribute("aria-sort");
      });
      this.fillTable();
    }

    order() {
      const positions = this.statusCells.map((_, i) => i).filter((i) => this.keeps(i));
      if (!this.sorting) return positions;
      const cells = this.study.columns[this.sorting.index].cells, sign = this.sorting.descending ? -1 : 1;
      const missing = (value) => value === null || value === "";
      return positions.sort((a, b) => {
        const left = cells[a], right = cells[b];
        if (missing(left) || missing(right)) return missing(left) - missing(right);
        if (typeof left === "number" && typeof right === "number") return sign * (left - right);
        return sign * String(left).localeCompare(String(right), "en", { numeric: true });
      });
    }

    // Paper has every trial, and no more columns side by side than fit: what is beyond stands in further tables.
    forPaper(on) {
      const place = this.section.querySelector("table.trials");
      if (!place) return;
      for (const table of this.section.querySelectorAll(".sheet")) table.remove();
      this.isPaper = on;
      this.fillTable();
      const first = this.study.columns.slice(0, 3), rest = this.study.columns.slice(3), order = this.order();
      place.parentElement.classList.toggle("wide", on && rest.length > ON_PAPER);
      if (!on || rest.length <= ON_PAPER) return;
      let last = place.parentElement;
      const each = Math.ceil(rest.length / Math.ceil(rest.length / ON_PAPER));
      for (let start = 0; start < rest.length; start += each) {
        const columns = [...first, ...rest.slice(start, start + each)], table = document.createElement("table");
        table.className = "sheet";
        const cell = (row, kind, text) => { row.append(Object.assign(document.createElement(kind),
          { textContent: text, className: text.length > A_WORD ? "word" : "" })); };
        const head = table.createTHead().insertRow(), body = table.createTBody();
        for (const column of columns) cell(head, "th", broken(titleOf(column)));
        for (const position of order) {
          const row = body.insertRow();
          for (const column of columns) cell(row, "td", shown(column, position));
        }
        last.after(table);
        last = table;
      }
    }

    fillTable() {
      const table = this.section.querySelector("table.trials");
      if (!table) return;
      const order = this.order(), most = this.all || this.isPaper ? Infinity : 100, body = document.createElement("tbody");
      for (const position of order.slice(0, most)) {
        const row = body.insertRow();
        row.dataset.position = position;
        row.tabIndex = 0;
        if (this.chosen.has(position)) row.classList.add("chosen");
        if (position === this.study.best) row.classList.add("best");
        row.onclick = () => this.toggle(position);
        row.onkeydown = (event) => {
          if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.toggle(position); }
          const other = event.key === "ArrowDown" ? row.nextElementSibling : event.key === "ArrowUp" ? row.previousElementSibling : null;
          if (other) { event.preventDefault(); other.focus(); }
        };
        for (const column of this.study.columns) {
          const cell = row.insertCell(), value = column.cells[position];
          cell.textContent = shown(column, position);
          if (column.numeric) cell.className = "number";
          else if (typeof value === "string" && value.length > A_WORD) cell.className = value.length > 40 ? "long" : "word";
        }
      }
      const focused = table.tBodies[0].contains(document.activeElement) && document.activeElement.dataset.position;
      table.tBodies[0].replaceWith(body);
      if (focused) body.querySelector(`[data-position="${focused}"]`)?.focus();
      this.count.textContent = `${order.length} of ${this.statusCells.length} trials`;
      if (order.length > most) {
        const button = document.createElement("button");
        button.textContent = `show all ${order.length}`;
        button.onclick = () => { this.all = true; this.fillTable(); };
        this.count.append(" ", button);
      }
      for (const button of this.section.querySelectorAll(".filters button[aria-pressed]")) {
        button.setAttribute("aria-pressed", String(this.statuses.has(button.textContent.split(" ")[0])));
      }
    }
  }

  // A browser would break 2.7e-4 behind its hyphen; what stands inside of a tag is left alone.
  for (const place of document.querySelectorAll("p, li")) {
    place.innerHTML = place.innerHTML.replace(/\d(\.\d+)?e-\d+(?![^<>]*>)/g, '<span class="option">$&</span>');
  }
  for (const button of document.querySelectorAll(".copy")) {
    button.onclick = () => {
      const text = button.parentElement.querySelector("pre");
      getSelection().selectAllChildren(text);  // a page opened from a file may have no clipboard: then it is selected
      const done = navigator.clipboard && navigator.clipboard.writeText(text.textContent);
      (done || Promise.reject()).then(() => { button.textContent = "copied"; }, () => { button.textContent = "selected"; });
    };
  }

  const views = report.studies.map((study) => new View(study, document.getElementById(study.place)));
  const bar = document.querySelector(".bar"), said = document.querySelector(".said");

  function showBar() {
    const kept = views.filter((view) => view.isFiltered)
      .map((view) => view.statusCells.filter((_, position) => view.keeps(position)).length);
    bar.hidden = kept.length === 0;
    bar.querySelector("span").textContent = `${kept.reduce((a, b) => a + b, 0)} trials chosen`;
  }
  bar.querySelector("button").onclick = () => views.forEach((view) => { if (view.isFiltered) view.clear(); });

  addEventListener("keydown", (event) => {
    if (event.key === "Escape") views.forEach((view) => { if (view.isFiltered) view.clear(); });
  });
  for (const details of document.querySelectorAll("details.folded")) {
    details.addEventListener("toggle", () => {  // a figure that was drawn while hidden has no width yet
      if (details.open) for (const place of details.querySelectorAll(".plot[data-drawn=yes]")) Plotly.Plots.resize(place);
    });
  }

  function repaint() {
    const look = theme(), change = {
      "font.color": look.font.color, "hoverlabel.bgcolor": look.hoverlabel.bgcolor,
      "hoverlabel.bordercolor": look.hoverlabel.bordercolor, "hoverlabel.font.color": look.font.color,
      "modebar.color": look.modebar.color, "modebar.activecolor": look.modebar.activecolor,
    };
    for (const axis of ["xaxis", "yaxis"]) {
      for (const [name, value] of Object.entries(look[axis])) change[`${axis}.${name}`] = value;
    }
    for (const place of document.querySelectorAll(".plot[data-drawn=yes]")) {
      const labels = (place.layout.annotations || []).map((_, i) => [`annotations[${i}].bgcolor`, color("--card")]);
      Plotly.relayout(place, { ...change, ...Object.fromEntries(labels) });
    }
  }
  dark.addEventListener("change", repaint);

  // plotly.js comes compressed. A policy may forbid evaluating text, but not a script element made by this one.
  async function unpack() {
    const text = document.getElementById("plotly").textContent;
    const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  // Paper is white whatever the screen is, and as wide as it is: figures are drawn for it before and back after.
  function paper(on) {
    if (document.documentElement.classList.toggle("paper", on) && !on) return;
    for (const details of document.querySelectorAll("details")) {
      if (on) { details.dataset.open = String(details.open); details.open = true; }
      else details.open = details.dataset.open === "true";
    }
    if (window.Plotly) missing().forEach(([view, figure]) => view.draw(figure));
    repaint();
    for (const view of views) view.forPaper(on);
    for (const place of document.querySelectorAll(".plot[data-drawn=yes]")) {
      // Two halves share a row of paper; the last of an odd number has one for itself.
      const card = place.closest(".half, .small"), cards = card ? [...card.parentElement.children] : [];
      const half = card && !(cards.length % 2 && card === cards[cards.length - 1]);
      const height = on ? Math.min(760, place.dataset.height * 0.8) : Number(place.dataset.height);
      place.style.height = `${height}px`;
      Plotly.relayout(place, on ? { width: half ? 330 : 680, height } : { width: null, height, autosize: true });
    }
  }
  addEventListener("beforeprint", () => paper(true));
  addEventListener("afterprint", () => paper(false));

  const missing = () => views.flatMap((view) => view.study.figures.map((figure) => [view, figure]))
    .filter(([, figure]) => !document.getElementById(figure.place).dataset.drawn);

  // One figure a frame, so that the page can be scrolled while a large study is drawn. A document that is open in it
  // keeps the page loading until then: a program that prints it waits for that.
  async function drawAll() {
    if (typeof DecompressionStream === "undefined") {
      document.querySelector(".old").hidden = false;
      return;
    }
    const frame = document.body.appendChild(document.createElement("iframe"));
    frame.hidden = true;
    frame.contentDocument.open();
    try {
      await unpack();
      for (let left = missing(); left.length; left = missing()) {
        await left[0][0].draw(left[0][1]);
        await new Promise((done) => setTimeout(done, 0));
      }
      document.body.dataset.drawn = "yes";
    } finally {
      frame.contentDocument.close();
      frame.remove();
    }
  }
  drawAll();

  const seconds = Number(document.body.dataset.reload);
  if (seconds) setInterval(() => { if (!views.some((view) => view.isFiltered)) location.reload(); }, seconds * 1000);
})();
