"""The report in a browser: every figure is drawn; hover, sort, filter and theme work; nothing is logged."""

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from analysis import figures, report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome executable was found")

PROBE = """
<script>
addEventListener("load", () => setTimeout(async () => {
  const seen = {}, plots = [...document.querySelectorAll(".plot")];
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const background = () => getComputedStyle(plots[0].querySelector(".main-svg")).backgroundColor;
  const first = () => document.querySelector("#summary tbody tr:not([hidden]) th .name").textContent;
  const rows = (id) => [...document.querySelectorAll(`#${id} tbody tr`)].filter((row) => !row.hidden).length;
  seen.sight = plots.filter((plot) => plot.querySelector(".main-svg")).length;
  dispatchEvent(new Event("beforeprint"));  // draws what is not in sight
  await wait(500);
  seen.drawn = Object.fromEntries(plots.map((p) => [p.id, p.querySelectorAll(".main-svg").length]));
  seen.marks = Object.fromEntries(plots.map((p) => [p.id, p.querySelectorAll(
    ".trace path, .trace .point, .points path, path.point, .heatmaplayer image").length]));
  seen.overflow = document.documentElement.scrollWidth - innerWidth;
  seen.wide = Math.max(...plots.map((p) => p.querySelector(".main-svg").clientWidth - p.clientWidth));
  seen.hover = {};
  for (const plot of plots) {
    const told = (t) => t.hovertext && t.visible !== false && t.type !== "scatterternary";
    const curve = plot.data.findIndex(told);
    if (curve < 0) continue;
    const last = plot.data[curve].hovertext.findLastIndex(Boolean);
    const where = plot.data[curve].type === "heatmap" ? { xpx: 20, ypx: 20 }
      : [{ curveNumber: curve, pointNumber: last }];
    Plotly.Fx.hover(plot, where, plot._fullLayout._subplots.cartesian[0]);
    seen.hover[plot.id] = plot.querySelector(".hoverlayer").textContent;
  }
  const heads = document.querySelectorAll("#summary thead button");
  const score = [...heads].findIndex((head) => /[↑↓]/.test(head.textContent));
  heads[score].click(); seen.ascending = first();
  heads[score].click(); seen.descending = first();
  const filter = document.getElementById("filter");
  if (filter) {
    const line = document.getElementById("score-by-round");
    const state = () => ({
      said: filter.querySelector("output").textContent, summary: rows("summary"), trials: rows("trials"),
      points: line.data.flatMap((t) => t.customdata ? t.x.filter((x) => x !== null) : []).length,
      drawn: line.querySelectorAll(".points path").length,
      notes: [...document.querySelectorAll("figcaption em")].filter((note) => !note.hidden).length,
    });
    const change = () => filter.dispatchEvent(new Event("input", { bubbles: true }));
    seen.all = state();
    filter.querySelector("select").selectedIndex = 1; change();
    await wait(300);
    seen.chosen = state();
    filter.querySelector("input").value = "nothing is called so"; change();
    await wait(300);
    seen.none = state();
    filter.reset();
    await wait(300);
    seen.again = state();
  }
  seen.before = background();
  document.getElementById("theme").click();
  await wait(300);
  seen.after = background();
  const picture = async (format) => {
    const url = await Plotly.toImage("score-by-round", { format, width: 300, height: 200 });
    return url.slice(0, format === "png" ? 22 : 18);
  };
  seen.png = await picture("png");
  seen.svg = await picture("svg");
  const out = document.createElement("pre");
  out.id = "probe"; out.textContent = JSON.stringify(seen);
  document.body.append(out);
}, 500));
</script>
"""


def browse(path, tmp_path, width):
    """What the probe saw in a frame of that width, and what the console said."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000",
        "--virtual-time-budget=30000", "--enable-logging=stderr", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, console or done.stderr[-2000:]
    return json.loads(unescape(found[1])), console


def check(seen, console, expected):
    """What holds for every report; expected: the figures it shows."""
    assert console == []
    assert list(seen["drawn"]) == expected
    assert min(seen["drawn"].values()) >= 1 and min(seen["marks"].values()) >= 1, seen
    # Figures out of sight wait until they are looked at.
    assert seen["sight"] < len(expected)
    # Neither the page nor a figure is wider than its place.
    assert seen["overflow"] <= 0 and seen["wide"] <= 1
    silent = [key for key in expected if not seen["hover"].get(key) and key != "loss-weights"]
    assert not silent, silent
    assert seen["before"] != seen["after"]
    assert seen["png"] == "data:image/png;base64," and seen["svg"] == "data:image/svg+xml"


@pytest.mark.timeout(200)
def test_the_report_of_a_run_works_on_a_phone(run, tmp_path):
    seen, console = browse(report.write(run, tmp_path / "report.html"), tmp_path, 500)
    check(seen, console, [key for key in figures.FIGURES if key not in figures.HEADINGS["Settings"]])
    assert "perplexity 48.0" in seen["hover"]["score-by-round"]
    assert (seen["ascending"], seen["descending"]) == ("Centralised", "Solo, mean")


@pytest.mark.timeout(200)
def test_hostile_names_do_nothing_in_a_browser(make, tmp_path):
    hostile = "<img src=x onerror=console.error('run')><script>console.error('run')</script>"
    folder = make("hostile", labels={"fedavg": hostile, "solo": "</script>" + hostile})
    seen, console = browse(report.write(folder, tmp_path / "report.html"), tmp_path, 1200)
    assert console == []
    assert min(seen["drawn"].values()) >= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("width", [1200, 500], ids=["desktop", "phone"])
def test_the_report_of_a_real_sweep_works(real_sweep, tmp_path, width):
    path = Path(shutil.copy(real_sweep / "report.html", tmp_path / "report.html"))
    seen, console = browse(path, tmp_path, width)
    of_a_sweep = {"response", "heat-map", "scaling"}
    check(seen, console, [
        key for key in figures.FIGURES if key not in figures.HEADINGS["Settings"] or key in of_a_sweep
    ])  # fmt: skip
    # Two values of each of two axes, two seeds.
    assert seen["all"]["said"] == seen["again"]["said"] == "8 of 8 runs"
    assert seen["all"]["points"] == seen["again"]["points"] == 2 * seen["chosen"]["points"] > 0
    assert seen["chosen"]["said"] == "4 of 8 runs" and seen["chosen"]["trials"] == 4
    assert 0 < seen["chosen"]["drawn"] < seen["all"]["drawn"]
    assert seen["all"]["notes"] == 0 < seen["chosen"]["notes"]
    assert seen["none"]["said"] == "0 of 8 runs"
    assert seen["none"]["points"] == seen["none"]["summary"] == seen["none"]["trials"] == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_figure_there_is_can_be_drawn(make_sweep, tmp_path):
    """A sweep that varies all that a figure looks for."""
    speeds, weights = {"narrow": 1.0, "wide": 100.0}, [(1.0, 1.0, 2.0), (2.0, 0.5, 0.1), (1.0, 3.0, 0.0)]
    points = [
        {
            "bandwidth": ["narrow", "wide"][place % 2],
            "ablation": ["all", "no claims", "no digest", "no delta"][place],
            "participants.count": 4 + 4 * place,
            "privacy.epsilon": 2.0**place,
            "participants.partition.alpha": 0.1 + place % 2,
            "participants.adversary.share": place / 10,
        }
        for place in range(4)
    ]

    def fields(point):
        response, task, digest = weights[point["participants.count"] // 4 % 3]
        plain = {name: value for name, value in point.items() if name not in ("bandwidth", "ablation")}
        plain["methods"] = [{"response": response, "task": task, "digest": digest}]
        return plain | {"participants.links": [{"up_mbps": speeds[point["bandwidth"]]}]}

    folder = make_sweep(
        points,
        fields=fields,
        worse=lambda p: p["participants.count"],
        attacked=lambda p: 0.6,
        backdoor=True,
    )
    seen, console = browse(report.write(folder, tmp_path / "report.html"), tmp_path, 1200)
    check(seen, console, list(figures.FIGURES))
