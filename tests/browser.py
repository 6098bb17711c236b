"""A report's page as a person's browser shows it: headless Chromium, no network."""

import base64
import json
import re
import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PROBE = """<script>addEventListener("load", () => { setTimeout(() => {
  const say = {};
  const closed = document.body.innerText;
  const wide = () => [...document.querySelectorAll("body *")].filter(e => {
    if (e.closest("svg") && e.tagName !== "svg" || e.closest(".scroll") && !e.matches(".scroll")) return false;
    const box = e.getBoundingClientRect();
    return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
  }).map(e => e.tagName + "." + e.className).slice(0, 5);
  say.width = innerWidth;
  say.closed = wide();
  say.shown = closed;
  document.querySelectorAll("details").forEach(e => e.open = true);
  say.wide = wide();
  say.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  say.plots = [...document.querySelectorAll("figure.plot svg")].map(e => Math.round(e.getBoundingClientRect().width));
  say.headings = [...document.querySelectorAll(".scroll")].map(e => {
    const first = e.querySelector("tbody tr:not(.group) th"); e.scrollLeft = 400;
    return Math.round(first.getBoundingClientRect().left - e.getBoundingClientRect().left);
  });
  say.requests = performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length;
  document.body.innerHTML = "<pre id=said></pre>";
  document.getElementById("said").textContent = JSON.stringify(say);
}, 0); });</script>"""


def browse(folder, tmp_path, width):
    """What the browser says of the page in a window of that width, written by a script added to a copy of it."""
    page = (folder / "report.html").read_text()
    inner, outer = tmp_path / "inner.html", tmp_path / "outer.html"
    inner.write_text(page.replace("</body>", PROBE + "</body>"))
    outer.write_text(
        f'<iframe id="page" src="inner.html" style="width:{width}px;height:900px;border:0"></iframe>'
        """<script>addEventListener("load", () => setTimeout(() => {
        document.title = "done";
        const said = document.getElementById("page").contentDocument.getElementById("said").textContent;
        document.body.textContent = "SAID" + btoa(unescape(encodeURIComponent(said))) + "END";
        }, 500));</script>"""
    )
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files"]
    command += ["--virtual-time-budget=5000", "--dump-dom"]
    run = subprocess.run([*command, outer.as_uri()], capture_output=True, text=True, timeout=90, check=True)
    found = re.search(r"SAID([A-Za-z0-9+/=]+)END", run.stdout)
    assert found, run.stdout[-500:] + run.stderr[-500:]
    return json.loads(base64.b64decode(found[1]))
