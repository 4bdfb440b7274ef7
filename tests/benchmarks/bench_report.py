"""How long the report of a large run takes: 8 trainers, 3 seeds, 20 conditions, and 200 gallery images of 224 pixels.

Run by hand: `python tests/benchmarks/bench_report.py [images] [folder]`. The run is made up (tests/fake_run.py), with one
attacked condition and two explainers in the gallery, one of which is noise that no picture format can shrink; it is kept where
a folder is named. The report is rendered in a process of its own. Seconds on the clock mean something on a quiet machine only,
so CPU seconds are given too. Goals: 20 s on two cores, 1 GB, a page of 15 MB that answers within 2 s.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the made-up run is a module of the tests

TRAINERS = ("standard", "fgsm", "pgd", "trades", "mart", "free", "fast", "awp")
RENDER = """
import re, sys, time
from pathlib import Path
clock = time.monotonic()
from cxr_eval.report.render import render
from cxr_eval.store import Run
render(Run.open(Path(sys.argv[1])))
# of this program alone: getrusage would give the peak of the one that started it
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e6
print(f"{time.monotonic() - clock:.1f} s on the clock, {time.process_time():.1f} s of CPU, peak {peak:.2f} GB")
"""


def interactive(page):
    """How soon the page answers in a browser, if there is one."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        return "no chromium and chromedriver: not opened in a browser"
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    session = webdriver.Chrome(options=options, service=Service(driver))
    try:
        session.get(page.resolve().as_uri())
        timing = "const t = performance.getEntriesByType('navigation')[0]; return [t.domInteractive, t.loadEventEnd]"
        ready, loaded = session.execute_script(timing)
        return f"in the browser: interactive after {ready / 1000:.2f} s, loaded after {loaded / 1000:.2f} s"
    finally:
        session.quit()


def main(images, folder):
    from tests.fake_run import Fake

    if not (folder / "manifest.json").is_file():
        Fake(
            models=("resnet18",),
            trainers=TRAINERS,
            seeds=(0, 1, 2),
            attacks=("fgsm", "pgd", "apgd"),
            radii=("0.0025", "0.005", "0.01", "0.02", "8/255"),
            corruptions=("gaussian_noise",),  # with 5 severities: 15 attacked conditions and 5 corrupted ones
            images=images,
            side=224,
        ).write(folder)
    done = subprocess.run([sys.executable, "-c", RENDER, str(folder)], capture_output=True, text=True, check=False)
    print((done.stdout or done.stderr).strip())
    print(interactive(folder / "report.html"))
    for name in ("report.html", "report.md", "gallery.html", "gallery", "figures"):
        path = folder / name
        files = [path] if path.is_file() else sorted(path.glob("*"))
        if files:
            size = sum(file.stat().st_size for file in files) / 1e6
            print(f"{name:13} {size:7.1f} MB{f' in {len(files)} files' if path.is_dir() else ''}")


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    if len(sys.argv) > 2:
        main(count, Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(count, Path(name))
