"""How the page looks: one style sheet, light and dark, from a phone to a wide screen.

Knows the classes that `page.py` and its parts give. No fonts, no pictures, nothing to fetch.
"""

from __future__ import annotations

CSS = """
:root {
  --ground: #f7f7f5; --card: #ffffff; --ink: #1c1d1f; --quiet: #6a6d73; --line: #e3e3df; --track: #eeeeea;
  --chosen: #0b7a5c; --chosen-soft: #dff3ec; --plain: #a9adb5; --bad: #b3342c; --bad-soft: #fbe7e5;
  --warn: #96690b; --warn-soft: #fbf0d6; --torch: #d9622b; --torch-soft: #fdeadf; --shade: 0 1px 2px rgb(0 0 0 / 6%);
  --s0: #4a7fb5; --s1: #0b7a5c; --s2: #d9a441; --s3: #8c6bb1; --s4: #c65d57; --s5: #7f8c8d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #131416; --card: #1c1e21; --ink: #e8e8e6; --quiet: #9a9da3; --line: #2f3236; --track: #2a2d31;
    --chosen: #41c79d; --chosen-soft: #173a30; --plain: #6d727b; --bad: #f0857d; --bad-soft: #43211f;
    --warn: #e5bb5b; --warn-soft: #3d3216; --torch: #f3935f; --torch-soft: #42291c; --shade: none;
    --s0: #6fa3d8; --s1: #41c79d; --s2: #e5bb5b; --s3: #b094d3; --s4: #e58b85; --s5: #99a5a6;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.02em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; letter-spacing: -.01em; margin: 0 0 12px; }
h2 small { color: var(--quiet); font-weight: 400; font-size: 14px; }
p { margin: 4px 0; }
a { color: var(--chosen); }
code { font: 12.5px/1.5 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.quiet, .masthead, footer, .caption { color: var(--quiet); }
.brand { color: var(--ink); font-weight: 700; letter-spacing: -.02em; }
.lead { font-size: 18px; overflow-wrap: anywhere; }
.lead b { color: var(--chosen); }
.caption { font-size: 13px; margin: 0 0 8px; }
header { margin-bottom: 28px; }
article { border-top: 1px solid var(--line); padding-top: 28px; margin-bottom: 56px; }
section, article > details { margin-top: 32px; }
footer { font-size: 13px; border-top: 1px solid var(--line); padding-top: 16px; }

.tiles { display: flex; flex-wrap: wrap; gap: 10px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 11px 12px;
  box-shadow: var(--shade); display: flex; flex-direction: column; font-size: 13px;
  font-variant-numeric: tabular-nums; flex: 1 1 108px; }
.tile .figure { font-size: 27px; font-weight: 650; letter-spacing: -.03em; line-height: 1.25; white-space: nowrap;
  color: var(--chosen); }
.tile .quiet { font-size: 12px; white-space: nowrap; }
.tile.accuracy { flex-basis: 150px; }
.tile.accuracy .figure, .tile.slow .figure { color: var(--ink); }
.label { color: var(--quiet); font-size: 12px; }

.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 12px; }
.panel { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px;
  box-shadow: var(--shade); }
figcaption { display: flex; justify-content: space-between; font-weight: 600; margin-bottom: 6px; }
figcaption .quiet { font-weight: 400; font-size: 12px; }
.bar { display: grid; grid-template-columns: 1fr auto; gap: 1px 10px; font-size: 13px; padding: 4px 0; }
.bar .track { grid-column: 1 / -1; height: 9px; }
.name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.value { text-align: right; font-variant-numeric: tabular-nums; }
.track { position: relative; height: 12px; border-radius: 3px; background: var(--track); display: block; }
.track i { display: block; height: 100%; min-width: 2px; border-radius: 3px; background: var(--plain); }
.bar.chosen { font-weight: 600; }
.bar.chosen .track i { background: var(--chosen); }
.bar.chosen .value { color: var(--chosen); }
.coverages { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); gap: 4px 28px;
  margin: 8px 0 4px; }
.coverage .name { font-weight: 400; }

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; font-weight: 500; color: var(--quiet); font-size: 12.5px; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > td, tr:last-child > th { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.rungs td, .rungs th { border-bottom: 0; white-space: nowrap; }
.rungs .explained td { padding-bottom: 1px; }
.rungs tr:not(.reason) td { border-top: 1px solid var(--line); }
.rungs .reason td { padding: 0 14px 8px 0; color: var(--quiet); white-space: normal; overflow-wrap: anywhere; }
.rungs .unsupported b, .rungs .skipped b { font-weight: 400; color: var(--quiet); }
dl { margin: 0; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 0 32px;
  font-size: 13.5px; }
dl div { display: grid; grid-template-columns: 7.5em 1fr; border-bottom: 1px solid var(--line); padding: 6px 0; }
dt { color: var(--quiet); font-size: 12.5px; }
dd { margin: 0; overflow-wrap: anywhere; }
.facts th { width: 15em; padding-right: 20px; overflow-wrap: anywhere; }
.facts td { overflow-wrap: anywhere; }
.badge { border-radius: 99px; padding: 1px 9px; font-size: 12px; background: var(--track); color: var(--quiet); }
.badge.chosen { background: var(--chosen-soft); color: var(--chosen); font-weight: 600; }
.badge.failed, .badge.inaccurate { background: var(--bad-soft); color: var(--bad); }
.badge.skipped { background: var(--warn-soft); color: var(--warn); }

.error { display: grid; grid-template-columns: minmax(0, 14em) minmax(0, 9em) 1fr 15em; gap: 10px; align-items: center;
  font-size: 13px; padding: 4px 0; }
.error .output { color: var(--quiet); overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.error small { display: block; color: var(--quiet); }
.error .track { height: 8px; }
.error .track u { position: absolute; top: -4px; bottom: -4px; width: 2px; background: var(--ink); }
.error.within .track i { background: var(--chosen); }
.error.beyond .track i { background: var(--bad); }
.error.beyond .value { color: var(--bad); }

.hybrid + .hybrid { margin-top: 28px; }
.map { display: flex; align-items: stretch; margin: 14px 0; overflow-x: auto; padding-bottom: 4px; }
.block { flex: 1 1 0; min-width: 108px; border-radius: 8px; padding: 9px; font-size: 12.5px; }
.block .label { display: block; }
.block b { font-weight: 600; }
.block ul { list-style: none; margin: 4px 0 0; padding: 0; }
.block li { overflow-wrap: anywhere; line-height: 1.4; }
.block.tensorrt { background: var(--chosen-soft); border: 1px solid var(--chosen); }
.block.torch { background: var(--torch-soft); border: 1px solid var(--torch); }
.block.tensorrt .label { color: var(--chosen); }
.block.torch .label { color: var(--torch); }
.border { flex: 0 0 58px; align-self: center; text-align: center; position: relative; height: 2px;
  background: var(--plain); margin: 0 5px; }
.border::after { content: ""; position: absolute; right: -1px; top: -4px; border: 5px solid transparent;
  border-left-color: var(--plain); border-right: 0; }
.border small { position: absolute; left: -4px; right: -4px; bottom: 5px; color: var(--quiet); font-size: 11px;
  white-space: nowrap; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 99px; margin-right: 6px; }
.dot.tensorrt { background: var(--chosen); }
.dot.torch { background: var(--torch); }
.chip { display: inline-block; background: var(--track); border-radius: 5px; padding: 0 6px; margin: 1px 4px 1px 0;
  font-size: 12.5px; }

.stages { display: flex; gap: 2px; height: 16px; border-radius: 4px; overflow: hidden; }
.stage { flex-basis: 3px; }
.strip { height: 10px; margin-top: 14px; }
.stage.tensorrt { background: var(--chosen); }
.stage.torch { background: var(--torch); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; margin-top: 10px; }
.s0 { background: var(--s0); } .s1 { background: var(--s1); } .s2 { background: var(--s2); }
.s3 { background: var(--s3); } .s4 { background: var(--s4); } .s5 { background: var(--s5); }
summary { cursor: pointer; padding: 6px 0; color: var(--quiet); }
details[open] > summary { margin-bottom: 6px; }

@media (max-width: 640px) {
  main { padding: 16px 14px 40px; }
  h1 { font-size: 25px; }
  .error { grid-template-columns: 1fr 1fr; gap: 4px 10px; padding: 8px 0; }
  .error .track { grid-column: 1 / -1; }
  .error .value { grid-column: 1 / -1; text-align: left; }
  .error .output { text-align: right; }
  .map { flex-direction: column; overflow-x: visible; }
  .block { flex-grow: 0 !important; min-width: 0; }
  .border { width: 2px; height: 34px; flex-basis: 34px; align-self: flex-start; margin: 3px 0 3px 24px; }
  .border::after { right: -4px; top: auto; bottom: -1px; border: 5px solid transparent;
    border-top-color: var(--plain); border-bottom: 0; }
  .border small { left: 14px; right: auto; bottom: 8px; }
  .facts th { width: 8.5em; }
  .rungs, .rungs tbody, .rungs tr, .rungs td { display: block; }
  .rungs thead, .rungs .empty { display: none; }
  .rungs tr:not(.reason) { display: flex; flex-wrap: wrap; gap: 0 16px; border-top: 1px solid var(--line);
    padding: 6px 0 2px; }
  .rungs tr:not(.reason) td { border: 0; padding: 1px 0; }
  .rungs td:first-child { flex: 1 0 60%; }
  .rungs [data-name]::before { content: attr(data-name) " "; color: var(--quiet); font-size: 12px; }
}
@media print { body { background: none; } .tile, .panel { break-inside: avoid; } }
"""
