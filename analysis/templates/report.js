(() => {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures"), templates = read("templates");
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const touch = !matchMedia("(hover: hover) and (pointer: fine)").matches;
  const theme = () => root.dataset.theme || (system.matches ? "dark" : "light");

  // Without a drag mode a finger on a figure scrolls the page.
  const config = {
    displaylogo: false, displayModeBar: touch ? false : "hover",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]], doubleClick: "reset",
  };
  for (const [key, figure] of Object.entries(figures)) {
    const layout = { ...figure.layout, template: templates[theme()], dragmode: touch ? false : "zoom" };
    Plotly.newPlot(key, figure.data, layout, config);
    figure.wide = {};
    for (const path of Object.keys(figure.narrow)) {
      figure.wide[path] = path.split(".").reduce((node, name) => node?.[name], figure.layout) ?? null;
    }
  }
  // A card changes its width with the window, and also when a scroll bar comes or a phone is turned.
  const fit = new ResizeObserver((seen) => seen.forEach(({ target, contentRect }) => {
    const figure = figures[target.id], size = contentRect.width < 520 ? "narrow" : "wide";
    const done = figure.size === size ? Promise.resolve() : Plotly.relayout(target, figure[size]);
    figure.size = size;
    done.then(() => Plotly.Plots.resize(target));
  }));
  for (const key of Object.keys(figures)) fit.observe(document.getElementById(key));

  const repaint = () => {
    for (const key of Object.keys(figures)) Plotly.relayout(key, { template: templates[theme()] });
  };
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    repaint();
  });
  system.addEventListener("change", () => { if (!root.dataset.theme) repaint(); });

  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => {
      const key = button.dataset.figure, height = figures[key].layout.height;
      Plotly.downloadImage(key, { format: button.dataset.save, filename: key, width: 900, height, scale: 2 });
    });
  }

  const table = document.getElementById("summary");
  const heads = table ? [...table.tHead.rows[0].cells] : [];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const key = (row) => row.cells[column].dataset.key;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)], [m, n] = [Number(x.replace("inf", "Infinity")), Number(y.replace("inf", "Infinity"))];
      return Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m === n ? 0 : m - n;
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => down ? compare(b, a) : compare(a, b));
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].append(...rows);
  }));
})();
