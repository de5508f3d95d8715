"""What tests/net_test.py compares with: steps.npz and settings.json in tests/golden, of this code.

    python benchmarks/make_net_golden.py [--only=igam,mixacm,settings]

--only leaves everything else as it is stored: names of tests/net.py's CASES, and "settings" for the
flag files'. Prints what has changed. All cases take a few minutes; single ones can only be made
where the others were, on the same processor with the same versions, so that the bits of one file
belong together. tests/golden/README.md says what is stored.
"""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests import net  # noqa: E402


def make_steps(names):
    platform, stored = net.stored_steps() if net.STEPS_FILE.exists() else (None, {})
    kept = set(net.CASES) - set(names)
    if missing := sorted(kept - set(stored)):
        raise SystemExit(f"not stored yet, so --only has to name it too: {', '.join(missing)}")
    if kept and platform != net.platform_here():
        raise SystemExit(
            f"{net.STEPS_FILE} is of another processor or other versions: make all cases"
        )
    cases = {name: stored[name] for name in kept}
    for name in names:
        cases[name] = net.measure(name)
        before = stored.get(name)
        same = before is not None and before["sha256"].tobytes() == cases[name]["sha256"].tobytes()
        print(
            f"{name:<34} {'new' if before is None else 'as stored' if same else 'CHANGED'}",
            flush=True,
        )
    net.write_steps(cases)


def make_settings():
    found = net.settings_of_all_files()
    stored = net.stored_settings() if net.SETTINGS_FILE.exists() else {"defaults": {}, "files": {}}
    net.write_settings(found)
    for part, now in found.items():
        before = stored[part]
        changed = sorted(
            name for name in before.keys() | now.keys() if before.get(name) != now.get(name)
        )
        print(f"settings: {part}: {len(changed)} of {len(now)} changed", *changed[:10], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default=",".join((*net.CASES, "settings")), help="cases, and settings"
    )
    names = parser.parse_args().only.split(",")
    if unknown := set(names) - {*net.CASES, "settings"}:
        known = ", ".join((*net.CASES, "settings"))
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {known}")
    if "settings" in names:
        make_settings()
    if cases := [name for name in names if name != "settings"]:
        make_steps(cases)


if __name__ == "__main__":
    main()
