"""The report's script: zoom and read-out over charts that are complete without it.

The data are in the paths' `d`; everything placed by step carries `data-x`. All charts share one range of
steps. The axes are written as tinyllm.page.curves writes them.
"""

SCRIPT = r"""
"use strict";
(() => {
  const section = document.getElementById("curves");
  if (!section) return;
  const epochs = JSON.parse(document.getElementById("epochs").textContent);
  const SIDE = 1000, first = +section.dataset.first;
  const full = [first, Math.max(+section.dataset.last, first + 1)];
  let view = [...full], at = null;
  const charts = [...document.querySelectorAll(".chart")].map(read);
  const spoken = document.getElementById("spoken"), where = document.getElementById("where");

  // What the markup holds.
  function read(figure) {
    const one = (selector) => figure.querySelector(selector);
    const log = figure.dataset.log === "1";
    const lines = [...figure.querySelectorAll("path[data-line]")].map((path) => {
      const x = [], y = [];
      for (const piece of path.getAttribute("d").split("M").slice(1)) {
        if (x.length) { x.push(x[x.length - 1]); y.push(NaN); }
        const values = piece.trim().split(" ").map(Number);
        for (let i = 0; i < values.length; i += 2) {
          x.push(values[i]);
          y.push(log ? 10 ** values[i + 1] : values[i + 1]);
        }
      }
      const entry = one(`.legend [data-line="${path.dataset.line}"] b`);
      return { path, x, y, entry, rest: entry && entry.textContent };
    });
    return {
      figure, lines, log, drawnLog: log, wasLog: log, range: [+figure.dataset.low, +figure.dataset.high],
      floor: figure.dataset.floor === "" ? null : +figure.dataset.floor,
      plot: one(".plot"), group: one("svg.data g"), ends: one("svg.epochs g"), x: one(".x"), y: one(".y"),
      placed: [...figure.querySelectorAll("[data-x]")], cursor: one(".cursor"), drag: one(".drag"),
      button: one("button.log"),
    };
  }

  // Numbers, as the page writes them.
  function round(low, high, count) {
    const raw = (high - low) / count;
    if (!(raw > 0)) return [low];
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10, 20].map((m) => m * power).find((s) => s >= raw * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i++) found.push(i * step);
    return found;
  }
  function roundLog(low, high, count) {
    if (high - low < 1) return round(10 ** low, 10 ** high, count).filter((v) => v > 0).map(Math.log10);
    const digits = high - low < 2 ? [1, 2, 5] : [1];
    const stride = Math.max(1, Math.round((high - low) / count));
    const found = [];
    for (let p = Math.floor(low); p <= Math.ceil(high); p += stride) {
      for (const d of digits) found.push(p + Math.log10(d));
    }
    return found.filter((v) => v >= low - 1e-9 && v <= high + 1e-9);
  }
  function labels(values) {
    const most = Math.max(0, ...values.map(Math.abs));
    if (most >= 1e4) {
      const [unit, letter] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find((u) => most >= u[0]);
      return values.map((v) => (v ? +(v / unit).toPrecision(6) + letter : "0"));
    }
    if (most >= 1e-2 || !most) {
      const round = values.map((v) => +v.toPrecision(6));
      const decimals = Math.max(...round.map((v) => (String(v).split(".")[1] || "").length));
      const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
      return round.map((v) => (v || 0).toLocaleString("en", digits));
    }
    return values.map((v) => (v ? power(v, 6) : "0"));
  }
  const power = (v, digits) => (+v.toPrecision(digits)).toExponential().replace("+", "");
  function figures(v) {
    const size = Math.abs(v);
    if (!Number.isFinite(v)) return "–";
    if (size >= 1000 && size < 1e9) return Math.round(v).toLocaleString("en");
    if (!size) return "0";
    return size >= 1e-3 && size < 1000 ? v.toPrecision(4) : power(v, 3);
  }
  const whole = (v) => v.toLocaleString("en");

  // Drawing.
  function zoomed() { return view[0] !== full[0] || view[1] !== full[1]; }
  function fit(chart) {
    if (!zoomed() && chart.log === chart.wasLog) return chart.range;
    let low = Infinity, high = -Infinity;
    const near = [];
    for (const { path, x, y } of chart.lines) {
      if (path.classList.contains("level")) {
        near.push(...y.map(chart.log ? Math.log10 : Number));
        continue;
      }
      for (let i = nearest(x, view[0]); i < x.length && x[i] <= view[1]; i++) {
        const v = chart.log ? (y[i] > 0 ? Math.log10(y[i]) : NaN) : y[i];
        if (x[i] >= view[0] && v < low) low = v;
        if (x[i] >= view[0] && v > high) high = v;
      }
    }
    if (!(low <= high)) return chart.log === chart.wasLog ? chart.range : [0, 1];
    const half = (high - low) / 2;
    for (const v of near.filter((v) => v >= low - half && v <= high + half)) {
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
    if (chart.floor !== null && !chart.log) low = Math.min(low, chart.floor);
    const pad = 0.05 * (high - low) || Math.abs(high) * 0.1 || 1;
    return [low === chart.floor && !chart.log ? low : low - pad, high + pad];
  }
  function draw() {
    const [x0, x1] = view, scale = SIDE / (x1 - x0), left = (x) => 100 * (x - x0) / (x1 - x0) + "%";
    for (const chart of charts) {
      const [low, high] = fit(chart), bottom = (y) => 100 * (y - low) / (high - low) + "%";
      const level = (v) => (chart.log ? Math.log10(v) : v);
      if (chart.log !== chart.drawnLog) redraw(chart);
      chart.group.setAttribute("transform", `matrix(${scale} 0 0 ${-SIDE / (high - low)} ${-x0 * scale} ` +
        `${SIDE * high / (high - low)})`);
      chart.ends.setAttribute("transform", `matrix(${scale} 0 0 1 ${-x0 * scale} 0)`);
      const steps = round(x0, x1, 6).filter(Number.isInteger);
      axis(chart.x, "left", steps.map(left), labels(steps));
      const levels = chart.log ? roundLog(low, high, 5) : round(low, high, 5);
      const names = chart.log ? levels.map((v) => labels([10 ** v])[0]) : labels(levels);
      axis(chart.y, "bottom", levels.map(bottom), names);
      for (const item of chart.placed) {
        const x = +item.dataset.x, end = item.dataset.end;
        item.style.left = left(x);
        if (end) {
          const from = Math.max(x, x0);
          item.style.left = left(from);
          item.style.width = 100 * (Math.min(+end, x1) - from) / (x1 - x0) + "%";
          item.hidden = +end <= x0 || x >= x1;
        } else {
          item.hidden = x < x0 || x > x1;
          item.classList.toggle("flip", x - x0 > 0.8 * (x1 - x0));
        }
        if (item.dataset.y) {
          const y = level(+item.dataset.y);
          item.style.bottom = bottom(y);
          item.hidden ||= !(y >= low && y <= high);
        }
      }
    }
    where.hidden = !zoomed();
    where.querySelector("span").textContent = `steps ${whole(x0)} to ${whole(x1)}`;
    const hash = zoomed() ? `#${x0}-${x1}` : "";
    try { history.replaceState(null, "", location.pathname + location.search + hash); } catch { /* file: */ }
  }
  function redraw(chart) {
    const level = (v) => (chart.log ? (v > 0 ? Math.log10(v) : NaN) : v);
    for (const { path, x, y } of chart.lines) {
      let d = "", pen = false;
      x.forEach((step, i) => {
        const v = level(y[i]), seen = Number.isFinite(v);
        if (seen) d += `${pen ? " " : "M"}${step} ${+v.toPrecision(6)}`;
        pen = seen;
      });
      path.setAttribute("d", d);
      const dots = path.nextElementSibling;
      if (dots && dots.classList.contains("dots")) {
        dots.setAttribute("d", d.replace(/M?(\S+ \S+) ?/g, "M$1h0"));
      }
    }
    chart.drawnLog = chart.log;
    chart.button.setAttribute("aria-pressed", chart.log);
  }
  function axis(element, side, places, names) {
    element.replaceChildren(...places.map((place, i) => {
      const tick = document.createElement("i");
      tick.style[side] = place;
      tick.appendChild(document.createElement("b")).textContent = names[i];
      return tick;
    }));
  }

  // Reading off.
  function nearest(x, step) {
    let low = 0, high = x.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (x[middle] < step) low = middle + 1; else high = middle;
    }
    return low && step - x[low - 1] < x[low] - step ? low - 1 : low;
  }
  function point(step) {
    at = step === null ? null : Math.round(Math.min(Math.max(step, view[0]), view[1]));
    for (const chart of charts) {
      chart.cursor.hidden = at === null;
      if (at !== null) {
        chart.cursor.style.setProperty("--share", (at - view[0]) / (view[1] - view[0]));
        chart.cursor.firstChild.textContent = about(at);
      }
      for (const line of chart.lines) {
        if (!line.entry) continue;
        let text = line.rest;
        if (at !== null) {
          const { x, y } = line, inside = at >= x[0] - 1 && at <= x[x.length - 1] + 1;
          text = inside ? figures(y[nearest(x, at)]) : "–";
        }
        line.entry.textContent = text;
      }
    }
  }
  function about(step) {
    const epoch = epochs.find((e) => step <= e[0]);
    return `step ${whole(step)}` + (epoch ? ` · epoch ${epoch[1]}` : "");
  }
  function speak(chart) {
    const values = [...chart.figure.querySelectorAll(".legend span")].map((s) => s.textContent.trim());
    spoken.textContent = at === null ? "" : `${about(at)}: ${values.join(", ")}`;
  }

  // Zoom.
  function show(x0, x1) {
    const width = Math.min(Math.max(Math.round(x1 - x0), Math.min(10, full[1] - full[0])), full[1] - full[0]);
    const from = Math.min(Math.max(Math.round(x0), full[0]), full[1] - width);
    view = [from, from + width];
    draw();
    if (at !== null) point(at);
  }
  function scaleAround(step, factor) {
    show(step - (step - view[0]) * factor, step + (view[1] - step) * factor);
  }
  const reset = () => show(...full);

  for (const chart of charts) {
    const { plot, drag, figure, button } = chart;
    let from = null;
    const fraction = (event) => {
      const box = plot.getBoundingClientRect();
      return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    };
    const step = (part) => view[0] + part * (view[1] - view[0]);
    plot.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      from = fraction(event);
      plot.setPointerCapture(event.pointerId);
    });
    plot.addEventListener("pointermove", (event) => {
      const to = fraction(event);
      point(step(to));
      if (from === null) return;
      drag.hidden = false;
      drag.style.left = 100 * Math.min(from, to) + "%";
      drag.style.width = 100 * Math.abs(to - from) + "%";
    });
    plot.addEventListener("pointerup", (event) => {
      const to = fraction(event), begun = from;
      from = null;
      drag.hidden = true;
      if (begun !== null && Math.abs(to - begun) * plot.clientWidth > 6) {
        show(step(Math.min(begun, to)), step(Math.max(begun, to)));
      } else {
        point(step(to));
      }
    });
    plot.addEventListener("pointercancel", () => { from = null; drag.hidden = true; });
    plot.addEventListener("pointerleave", () => { if (from === null) point(null); });
    plot.addEventListener("dblclick", reset);
    plot.addEventListener("wheel", (event) => {  // a page that only scrolls by must not zoom
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== figure) return;
      event.preventDefault();
      scaleAround(step(fraction(event)), event.deltaY > 0 ? 1.25 : 0.8);
    }, { passive: false });
    figure.addEventListener("keydown", (event) => {
      if (event.target !== figure || event.ctrlKey || event.metaKey || event.altKey) return;
      const width = view[1] - view[0], here = at === null ? view[0] + width / 2 : at;
      const move = Math.max(1, Math.round(width / (event.shiftKey ? 10 : 100)));
      const action = {
        ArrowLeft: () => point(here - move), ArrowRight: () => point(here + move),
        Home: () => point(view[0]), End: () => point(view[1]),
        "+": () => scaleAround(here, 0.5), "=": () => scaleAround(here, 0.5), "-": () => scaleAround(here, 2),
        0: reset, Escape: () => { reset(); point(null); },
      }[event.key];
      if (!action) return;
      event.preventDefault();
      action();
      speak(chart);
    });
    figure.addEventListener("blur", () => point(null));
    button.hidden = false;
    button.addEventListener("click", () => { chart.log = !chart.log; draw(); });
  }
  where.querySelector("button").addEventListener("click", reset);
  for (const hint of document.querySelectorAll(".hint")) hint.hidden = false;
  const asked = /^#(\d+)-(\d+)$/.exec(location.hash);
  if (asked && +asked[1] < +asked[2]) show(+asked[1], +asked[2]);
})();
"""
