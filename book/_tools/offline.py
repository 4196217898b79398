"""What a page needs to be complete without a network: local Vega, no thebe."""

import json
import re
from pathlib import Path

import executions

VEGA_FILE = "ntklab-vega.js"
_ASKED = re.compile(r"/(vega|vega-lite|vega-embed)@([\w.]+)")
_THEBE = re.compile(
    r'<script type="text/x-thebe-config">.*?</script>\s*<script>kernelName = .*?</script>',
    re.DOTALL,
)


def vega_versions() -> dict[str, str]:
    """The versions that the charts of the installed Altair ask for."""
    import altair

    return {
        "vega": altair.VEGA_VERSION,
        "vega-lite": altair.VEGALITE_VERSION,
        "vega-embed": altair.VEGAEMBED_VERSION,
    }


def write_vega(folder: Path) -> None:
    """Write Vega, Vega-Lite and vega-embed as one script, where the right one is not there yet.

    Altair's own loader skips its CDN when `window.VEGA_DEBUG` already names the versions it wants.
    """
    import vl_convert

    versions = vega_versions()
    stamp = f"// {json.dumps(versions)} by vl-convert {vl_convert.__version__}\n"
    target = folder / VEGA_FILE
    if target.is_file() and target.read_text(encoding="utf8").startswith(stamp):
        return
    lite = ".".join(versions["vega-lite"].split(".")[:2])
    bundle = vl_convert.javascript_bundle(
        "window.vega = vega; window.vegaLite = vegaLite; window.vegaEmbed = vegaEmbed;",
        vl_version=lite,
    )
    debug = {f"{name.replace('-', '')}_version": version for name, version in versions.items()}
    script = f"window.VEGA_DEBUG = {json.dumps(debug)};\n(function () {{\n{bundle}\n}})();\n"
    executions.write_atomically(target, stamp + script)


def asked_versions(body: str) -> dict[str, set[str]]:
    """The Vega versions that the charts of a page ask for; empty where it has no chart."""
    asked: dict[str, set[str]] = {}
    if "VEGA_DEBUG" in body:
        for name, version in _ASKED.findall(body):
            asked.setdefault(name, set()).add(version)
    return asked


def wrong_versions(body: str) -> str | None:
    """One sentence where a page's charts were made for another Vega than the bundle's."""
    for name, version in vega_versions().items():
        others = asked_versions(body).get(name, {version}) - {version}
        if others:
            return (
                f"its charts ask for {name} {', '.join(sorted(others))} and the book brings "
                f"{version}: another Altair ran the chapter; `make clean`, then `make book`."
            )
    return None


def without_thebe(script_files: list) -> list:
    """The scripts of a page less thebe's, which would load from a CDN and log an error."""
    return [s for s in script_files if not _names_thebe(s)]


def _names_thebe(script) -> bool:
    attributes = getattr(script, "attributes", {})
    return "thebe" in f"{getattr(script, 'filename', script)} {attributes.get('body', '')}".lower()


def body_without_thebe(body: str) -> str:
    """A page's body less the two script elements that sphinx-thebe appends."""
    return _THEBE.sub("", body)
