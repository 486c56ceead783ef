"""The report in a real browser: it draws every figure, follows the theme, sorts, and says no error."""

import json
import os
import re
import shutil
import subprocess
from html import unescape

import pytest

from analysis import figures, report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome executable was found")

PROBE = """
<script>
addEventListener("load", () => setTimeout(async () => {
  const seen = {}, plots = [...document.querySelectorAll(".plot")];
  const background = () => getComputedStyle(plots[0].querySelector(".main-svg")).backgroundColor;
  const first = () => document.querySelector("#summary tbody th .name").textContent;
  seen.drawn = Object.fromEntries(plots.map((p) => [p.id, p.querySelectorAll(".main-svg").length]));
  seen.marks = Object.fromEntries(plots.map((p) => [p.id,
    p.querySelectorAll(".trace path, .trace .point, .points path, path.point").length]));
  seen.overflow = document.documentElement.scrollWidth - innerWidth;
  seen.wide = Math.max(...plots.map((p) => p.querySelector(".main-svg").clientWidth - p.clientWidth));
  const hovered = document.getElementById("score-by-round");
  Plotly.Fx.hover(hovered, [{ curveNumber: 0, pointNumber: 4 }]);
  seen.hover = hovered.querySelector(".hoverlayer").textContent;
  const heads = document.querySelectorAll("#summary thead button");
  heads[1].click(); seen.ascending = first();
  heads[1].click(); seen.descending = first();
  seen.before = background();
  document.getElementById("theme").click();
  await new Promise((done) => setTimeout(done, 300));
  seen.after = background();
  seen.png = (await Plotly.toImage(hovered, { format: "png", width: 300, height: 200 })).slice(0, 22);
  seen.svg = (await Plotly.toImage(hovered, { format: "svg", width: 300, height: 200 })).slice(0, 18);
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
        "--virtual-time-budget=15000", "--enable-logging=stderr", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, console or done.stderr[-2000:]
    return json.loads(unescape(found[1])), console


@pytest.mark.timeout(120)
@pytest.mark.parametrize("width", [1200, 500], ids=["desktop", "phone"])
def test_the_report_works_in_a_browser(run, tmp_path, width):
    seen, console = browse(report.write(run, tmp_path / "report.html"), tmp_path, width)
    assert console == []
    assert list(seen["drawn"]) == list(figures.FIGURES)
    assert min(seen["drawn"].values()) >= 1 and min(seen["marks"].values()) >= 1, seen
    # Neither the page nor a figure is wider than its place.
    assert seen["overflow"] <= 0 and seen["wide"] <= 1
    assert "perplexity 48.0" in seen["hover"]
    assert (seen["ascending"], seen["descending"]) == ("Centralised", "Solo, mean")
    assert seen["before"] != seen["after"]
    assert seen["png"] == "data:image/png;base64," and seen["svg"] == "data:image/svg+xml"


@pytest.mark.timeout(120)
def test_hostile_names_do_nothing_in_a_browser(make, tmp_path):
    hostile = "<img src=x onerror=console.error('run')><script>console.error('run')</script>"
    folder = make("hostile", labels={"fedavg": hostile, "solo": "</script>" + hostile})
    seen, console = browse(report.write(folder, tmp_path / "report.html"), tmp_path, 1200)
    assert console == []
    assert min(seen["drawn"].values()) >= 1
