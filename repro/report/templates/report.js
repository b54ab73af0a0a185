"use strict";
(() => {
  // --- tables: a button in each head sorts its column, numbers by value, what is empty last
  const parse = (cell) => {
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = cell.textContent.trim().replace(/[−–]/g, "-").replace(/,(?=\d{3})/g, "");
    const found = text.match(/^[<>≤≥≈~\s]*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*[^\d\s]*$/i); // 3 pp; not a date
    return found ? Number(found[1]) : NaN;
  };
  const sort = (table, column, direction) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, cell: row.cells[column], text: row.cells[column].textContent.trim() }));
    const full = rows.filter((each) => each.text);
    const numbers = full.map((each) => (each.value = parse(each.cell)));
    const numeric = numbers.length > 0 && numbers.every(Number.isFinite);
    full.sort((a, b) => direction * (numeric ? a.value - b.value : a.text.localeCompare(b.text, "en", { numeric: true })));
    body.append(...full.map((each) => each.row), ...rows.filter((each) => !each.text).map((each) => each.row));
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  };
  for (const table of document.querySelectorAll("table.sorts")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column, head.getAttribute("aria-sort") === "ascending" ? -1 : 1));
      head.append(button);
    });
  }

  // --- print: everything is opened, and closed again
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const each of closed) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of closed) each.open = false;
  });
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    link.addEventListener("click", () => {
      const place = document.getElementById(link.hash.slice(1))?.closest("details");
      if (place) place.open = true;
    });
  }

  // --- charts: one tip for the mouse, a finger and the keyboard
  const tip = document.getElementById("tip");
  const names = { series: "series", at: "at", value: "value", n: "n", artifact: "artifact" };
  const hide = () => (tip.hidden = true);
  const show = (told, x, y) => {
    tip.replaceChildren();
    for (const [name, word] of Object.entries(names)) {
      const term = document.createElement("dt");
      const text = document.createElement("dd");
      term.textContent = word;
      text.textContent = told[name];
      tip.append(term, text);
    }
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, Math.min(x + 12, room - box.width - 4))}px`;
    tip.style.top = `${y + 14 + box.height > innerHeight ? Math.max(4, y - box.height - 14) : y + 14}px`;
  };
  const told = (node) => node.__data__?.tooltip ?? node.__data__?.datum;
  const marks = (place) => [...place.querySelectorAll('[role="graphics-symbol"]')].filter((node) => told(node)?.artifact);
  const prepare = (place) => {
    const all = marks(place);
    all.forEach((node, i) => node.setAttribute("tabindex", i ? "-1" : "0"));
  };
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const keys = (place) => {
    place.addEventListener("focusin", (event) => {
      const node = event.target;
      if (!told(node)?.artifact) return;
      const box = node.getBoundingClientRect();
      show(told(node), box.left + box.width / 2, box.top + box.height / 2);
    });
    place.addEventListener("focusout", hide);
    place.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      const all = marks(place);
      const here = all.indexOf(document.activeElement);
      if (here < 0) return;
      const next = event.key in step ? here + step[event.key] : { Home: 0, End: all.length - 1 }[event.key];
      if (next === undefined || !all[next]) return;
      event.preventDefault();
      all[here].setAttribute("tabindex", "-1");
      all[next].setAttribute("tabindex", "0");
      all[next].focus();
    });
  };
  const draw = async () => {
    const specs = JSON.parse(document.getElementById("specs").textContent);
    const handler = (_, event, item, value) => (value ? show(value, event.clientX, event.clientY) : hide());
    for (const place of document.querySelectorAll(".chart")) {
      place.replaceChildren();
      const result = await vegaEmbed(place, specs[place.dataset.chart], {
        actions: false, renderer: "svg", mode: "vega-lite", tooltip: handler, defaultStyle: false,
      });
      keys(place);
      prepare(place);
      result.view.addResizeListener(() => setTimeout(() => prepare(place)));
    }
    document.body.dataset.ready = "yes";
  };
  if (document.querySelector(".chart")) draw();
  else document.body.dataset.ready = "yes";
})();
