"""The report's style sheet, for light and dark mode, without external fonts or images."""

CSS = """
:root { color-scheme: light dark; --ground: #f6f7f8; --card: #ffffff; --ink: #1d2327; --soft: #5b6670; --line: #dfe3e6;
  --accent: #0072b2; --good: #00775a; --bar: #cfe4f1; --plot: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14181b; --card: #1d2327; --ink: #e8ebed; --soft: #9aa5ad; --line: #343c42; --accent: #6db9e8;
    --good: #4fc3a1; --bar: #24465a; --plot: #f4f5f6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
header h1 { margin: 0; font-size: 26px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
header p { margin: 4px 0 0; color: var(--soft); overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 17px; }
h3 { margin: 18px 0 6px; font-size: 14px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin-top: 18px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin-top: 18px; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.figure b { display: block; font-size: 25px; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.figure:first-child b { color: var(--accent); }
.figure span { display: block; color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
tbody tr:last-child td, tbody tr:last-child th { border-bottom: 0; }
td.bar { background: linear-gradient(90deg, var(--bar) var(--part), transparent var(--part)); padding-left: 8px; }
dl { display: grid; grid-template-columns: minmax(110px, max-content) 1fr; gap: 4px 18px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 16px;
  align-items: start; margin-top: 14px; }
.plots figure:only-child { max-width: 520px; }
.words td, .words th { text-align: left; }
figure { margin: 0; }
figure img { width: 100%; height: auto; background: var(--plot); border-radius: 6px; padding: 6px; display: block; }
figcaption, .note { color: var(--soft); font-size: 13px; margin-top: 6px; }
pre { overflow-x: auto; background: var(--ground); border: 1px solid var(--line); border-radius: 6px; padding: 12px;
  margin: 8px 0; font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
summary { cursor: pointer; color: var(--accent); }
footer { color: var(--soft); font-size: 13px; margin-top: 22px; }
@media print { section, .figure { break-inside: avoid; } }
"""
