(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(`${id}-data`).textContent);
  const runs = read("runs"), templates = read("templates");
  const root = document.documentElement, ROWS = Number(document.querySelector("main").dataset.rows);
  const every = (selector, within = document) => [...within.querySelectorAll(selector)];
  const system = matchMedia("(prefers-color-scheme: dark)");
  const touch = !matchMedia("(hover: hover) and (pointer: fine)").matches;
  const theme = () => root.dataset.theme || (system.matches ? "dark" : "light");

  // The runs that the filter leaves, by name and by setting; null while it leaves all.
  let left = null;

  // --- figures ---------------------------------------------------------------------------------

  // Without a drag mode a finger on a figure scrolls the page.
  const config = {
    displaylogo: false, displayModeBar: touch ? false : "hover",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]], doubleClick: "reset",
  };
  const picked = (node, keep, size) => Object.fromEntries(Object.entries(node).map(([name, value]) => {
    if (Array.isArray(value) && value.length === size) return [name, keep.map((at) => value[at])];
    return [name, value && value.constructor === Object ? picked(value, keep, size) : value];
  }));
  // Points know their setting; what is marked as a sum over all runs is hidden under a filter.
  const filtered = (traces) => left === null ? traces : traces.map((trace) => {
    if (trace.meta === "all") return { ...trace, visible: false };
    if (!trace.customdata) return trace;
    const keep = trace.customdata.flatMap((setting, at) => left.settings.has(setting) ? [at] : []);
    return picked(trace, keep, trace.customdata.length);
  });
  const narrow = (element) => element.clientWidth < 520;
  const at = (node, path) => path.split(".").reduce((inner, name) => inner?.[name], node) ?? null;
  const figures = {};  // those that are drawn
  const fit = (element, figure) => {
    const size = narrow(element) ? "narrow" : "wide";
    const values = size === "narrow" ? figure.narrow : figure.wide;
    // In the next frame: the observer that asks for this would be told of it in this one.
    if (values.height) requestAnimationFrame(() => { element.style.height = `${values.height}px`; });
    const done = figure.size === size ? Promise.resolve() : Plotly.relayout(element, values);
    figure.size = size;
    return done.then(() => Plotly.Plots.resize(element));
  };
  // A card changes its width with the window, and also when a scroll bar comes or a phone is turned.
  const widths = new ResizeObserver((seen) => seen.forEach(({ target }) => fit(target, figures[target.id])));
  const draw = (element) => {
    if (figures[element.id]) return;
    const figure = figures[element.id] = read(element.id);
    figure.wide = Object.fromEntries(
      Object.keys(figure.narrow).map((path) => [path, at(figure.layout, path)]));
    const layout = { ...figure.layout, template: templates[theme()], dragmode: touch ? false : "zoom" };
    Plotly.newPlot(element, filtered(figure.data), layout, config);
    widths.observe(element);
  };
  // Only what comes into sight is drawn: a page of many figures opens at once.
  const sight = new IntersectionObserver((seen) => seen.forEach(({ target, isIntersecting }) => {
    if (!isIntersecting) return;
    sight.unobserve(target);
    draw(target);
  }), { rootMargin: "400px" });
  const plots = every(".plot");
  plots.forEach((element) => sight.observe(element));
  addEventListener("beforeprint", () => plots.forEach(draw));

  const repaint = () => Object.keys(figures).forEach((key) =>
    Plotly.relayout(key, { template: templates[theme()] }));
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    repaint();
  });
  system.addEventListener("change", () => { if (!root.dataset.theme) repaint(); });

  every("[data-save]").forEach((button) => button.addEventListener("click", () => {
    const key = button.dataset.figure;
    draw(document.getElementById(key));
    const { height } = figures[key].layout;
    Plotly.downloadImage(key, { format: button.dataset.save, filename: key, width: 900, height, scale: 2 });
  }));

  // --- tables ----------------------------------------------------------------------------------

  const whole = new Set();
  const places = new Map(runs.map((run) => [run.run, run]));
  const kept = ({ dataset }) => {
    if (left === null) return true;
    if (dataset.setting !== undefined) return left.labels.has(dataset.setting);
    return !places.has(dataset.run) || left.names.has(dataset.run);
  };
  const show = (table) => {
    let count = 0;
    for (const row of table.tBodies[0].rows) row.hidden = !kept(row) || (count++ >= ROWS && !whole.has(table));
    const more = document.querySelector(`[data-more="${table.id}"]`);
    more.hidden = whole.has(table) || count <= ROWS;
    more.textContent = `show all ${count} rows`;
  };
  const number = (key) => key === "" ? NaN : Number(key.replace("inf", "Infinity"));
  for (const table of every("main table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const key = (row) => row.cells[column].dataset.key;
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)], [m, n] = [number(x), number(y)];
        return Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m === n ? 0 : m - n;
      };
      const rows = [...table.tBodies[0].rows].sort((a, b) => down ? compare(b, a) : compare(a, b));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      table.tBodies[0].append(...rows);
      show(table);
    }));
  }
  every("[data-more]").forEach((button) => button.addEventListener("click", () => {
    const table = document.getElementById(button.dataset.more);
    whole.add(table);
    show(table);
  }));
  // Numbers at full precision; a spreadsheet takes no cell for a formula.
  const quoted = (text) => `"${(/^[=+@\t]|^-\D/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  const value = (cell) => cell.dataset.key === "-inf" ? "" : cell.dataset.key ?? cell.textContent;
  every("[data-csv]").forEach((button) => button.addEventListener("click", () => {
    const table = document.getElementById(button.dataset.csv);
    const head = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
    const body = [...table.tBodies[0].rows].filter(kept).map((row) => [...row.cells].map(value));
    const lines = [head, ...body].map((cells) => cells.map((text) => quoted(text.trim())).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
    link.download = `${table.id}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }));

  // --- filter ----------------------------------------------------------------------------------

  const filter = document.getElementById("filter");
  const apply = () => {
    const fields = every("select", filter).filter((select) => select.value);
    const words = filter.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = runs.filter((run) => fields.every((f) => run.fields[f.dataset.field] === f.value)
      && words.every((word) => run.text.toLowerCase().includes(word)));
    left = found.length === runs.length ? null : {
      names: new Set(found.map((run) => run.run)),
      settings: new Set(found.map((run) => run.setting)),
      labels: new Set(found.map((run) => run.label)),
    };
    filter.querySelector("output").textContent = `${found.length} of ${runs.length} runs`;
    every("main table").forEach(show);
    for (const element of plots) {
      const figure = figures[element.id], follows = "follows" in element.dataset;
      element.closest("figure").querySelector("em").hidden = left === null || follows;
      if (figure && follows) Plotly.react(element, filtered(figure.data), element.layout, config);
    }
  };
  if (filter) {
    filter.addEventListener("input", apply);
    filter.addEventListener("reset", () => setTimeout(apply));
    filter.addEventListener("submit", (event) => event.preventDefault());
    filter.reset();
    apply();
  }
})();
