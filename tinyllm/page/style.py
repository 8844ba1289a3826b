"""The style sheets: one measure, one type size for reading, hairlines, colour only for data.

Order: what all pages share, the report's charts, what is inside a model.
"""

PAGE = """
:root {
  color-scheme: light dark;
  --paper: #fbfbf9; --ink: #1b1d1f; --soft: #666b70; --rule: #dcdcd8; --faint: #ececE8; --band: #f3f3ef;
  --run0: #1f5f99; --run1: #c2541b; --run2: #2b7a4b; --run3: #8a4a9e; --run4: #8a6d00; --run5: #4d5963;
  --eval: #c2541b; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #141618; --ink: #e6e6e1; --soft: #979ca1; --rule: #34383c; --faint: #24272a; --band: #191c1f;
    --run0: #6fb1ec; --run1: #f0935b; --run2: #6cc794; --run3: #c795da; --run4: #d6b64a; --run5: #a9b6c1;
    --eval: #f0935b; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei",
    "Noto Sans CJK SC", "WenQuanYi Zen Hei", sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%;
}
h1, h2 { margin: 0; font-weight: 600; line-height: 1.2; }
h1 { font-size: 1.6rem; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1rem; }
header p { margin: 0.3rem 0 0; color: var(--soft); overflow-wrap: anywhere; }
header p b { color: var(--ink); font-weight: 600; }
section { margin-top: 2.8rem; }
section > h2 { padding-bottom: 0.5rem; border-bottom: 1px solid var(--rule); }
.note { color: var(--soft); font-size: 0.87rem; margin: 0.6rem 0 0; overflow-wrap: anywhere; }
.bad { color: var(--bad); }

.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.6rem, 1fr)); gap: 1.4rem;
  margin: 1.8rem 0 0; }
.numbers dt { color: var(--soft); font-size: 0.8rem; }
.numbers dd { margin: 0; }
.numbers b { display: block; font-size: 1.5rem; font-weight: 400; line-height: 1.3; letter-spacing: -0.02em; }
.numbers small { color: var(--soft); font-size: 0.8rem; }

button { font: inherit; font-size: 0.75rem; line-height: 1.4; color: var(--soft); background: none;
  border: 1px solid var(--rule); border-radius: 3px; padding: 0 0.45em; cursor: pointer; }
button:hover, button[aria-pressed="true"] { color: var(--ink); border-color: var(--soft); }
button:focus-visible { outline: 2px solid var(--run0); outline-offset: 1px; }

.scroll { overflow-x: auto; margin-top: 0.4rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.87rem; }
th, td { text-align: left; padding: 0.32rem 1.2rem 0.32rem 0; border-bottom: 1px solid var(--faint);
  vertical-align: top; white-space: nowrap; }
th { color: var(--soft); font-weight: 400; }
.settings td { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
.n { text-align: right; }
th:last-child, td:last-child { padding-right: 0; }
td:last-child:not(.n) { width: 100%; }
tr.differs td { font-weight: 600; }
caption { text-align: left; color: var(--soft); padding: 0.8rem 0 0.2rem; font-size: 0.87rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 3rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }

@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; }
  .numbers { grid-template-columns: repeat(2, 1fr); }
}
@media (prefers-reduced-motion: reduce) { * { transition: none !important; animation: none !important; } }
@media print { button, .hint { display: none; } }
"""

# ---- the report

CHARTS = """
.chart { margin: 2.7rem 0 0; outline: none; }
.chart:focus-visible .plot { outline: 2px solid var(--run0); outline-offset: 3px; }
figcaption { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 0.6rem; padding: 0 0 0.5rem 3.4rem;
  min-height: 2rem; }
figcaption small:empty { display: none; }
figcaption small { color: var(--soft); font-size: 0.8rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1.1rem; margin-left: auto; color: var(--soft);
  font-size: 0.8rem; }
.legend b { display: inline-block; min-width: 3.6em; color: var(--ink); font-weight: 500; }
.legend span::before { content: ""; display: inline-block; width: 1em; margin-right: 0.4em;
  vertical-align: 0.28em; border-top: 2px solid var(--colour); }
.legend .raw::before { border-top-width: 5px; opacity: 0.3; vertical-align: 0.15em; }
.legend .best::before, .legend .newest::before { width: 9px; height: 9px; border: 2px solid var(--ink);
  vertical-align: -0.05em; }
.legend .best::before { border-radius: 50%; }
.plot { position: relative; height: 8.5rem; margin: 0 0 1.9rem 3.4rem; border-bottom: 1px solid var(--soft);
  touch-action: pan-y; cursor: crosshair; user-select: none; -webkit-user-select: none; }
#loss .plot { height: 21rem; }
.plot i { position: absolute; font-style: normal; pointer-events: none; }
.plot b { font-weight: 400; font-size: 0.75rem; color: var(--soft); white-space: nowrap; }
.bands { position: absolute; inset: 0; overflow: hidden; }
.bands i { top: 0; bottom: 0; border-left: 1px solid var(--rule); }
.bands i:nth-child(even) { background: var(--band); }
.bands i:first-child { border-left: 0; }
.names { position: relative; z-index: 1; display: flex; }
.names b { min-width: max-content; padding: 0 0.5em; }
.y i { left: 0; right: 0; border-top: 1px solid var(--faint); }
.y b { position: absolute; right: 100%; top: -0.78rem; padding-right: 0.6em; line-height: 1.5rem; }
.x i { top: 100%; height: 5px; border-left: 1px solid var(--soft); }
.x b { position: absolute; top: 5px; left: 0; transform: translateX(-50%); }
.step { position: absolute; right: 100%; top: 100%; margin-top: 5px; padding-right: 1.6em; }
#where { position: sticky; top: 0; z-index: 3; margin: 0; padding: 0.5rem 0; background: var(--paper);
  text-align: right; font-size: 0.87rem; }
svg { position: absolute; left: 0; width: 100%; pointer-events: none; }
svg.data { top: 0; height: 100%; overflow: hidden; }
svg.epochs { bottom: 0; height: 4px; }
path { fill: none; stroke: var(--colour); vector-effect: non-scaling-stroke; stroke-linejoin: round;
  stroke-linecap: round; }
.epochs path { stroke: var(--soft); stroke-width: 1px; opacity: 0.6; }
.trend { stroke-width: 1.75px; }
.eval { stroke-width: 1.5px; }
.raw { stroke-width: 1px; }
path.raw { opacity: 0.3; }
.dots { stroke-width: 4px; }
path.level, .legend .uniform, .legend .unigram, .legend .bigram { --colour: var(--soft); stroke-width: 1px; }
path.unigram { stroke-dasharray: 7 4; }
path.bigram { stroke-dasharray: 2 4; }
.legend .uniform::before, .legend .unigram::before, .legend .bigram::before { width: 1.4em;
  border-top-width: 1px; }
.legend .unigram::before { border-top-style: dashed; }
.legend .bigram::before { border-top-style: dotted; }
.run0 { --colour: var(--run0); } .run1 { --colour: var(--run1); } .run2 { --colour: var(--run2); }
.run3 { --colour: var(--run3); } .run4 { --colour: var(--run4); } .run5 { --colour: var(--run5); }
.single .eval, .single .dots { --colour: var(--eval); }
.many path.eval { stroke-dasharray: 5 3; }
.many .legend .eval::before { width: 1.4em; border-top-style: dashed; }

.marks i.event { top: 0; bottom: 0; border-left: 1px dashed var(--soft); }
.many .marks i.event { border-color: var(--colour); }
.marks b { position: absolute; left: 0.5em; top: calc(1.5em * (var(--level) + 1)); }
.marks b, .names b { text-shadow: 0 0 2px var(--paper), 0 0 2px var(--paper), 0 0 2px var(--paper); }
.marks .flip b { left: auto; right: 0.5em; }
.marks i.level b { top: auto; bottom: 1px; left: auto; right: 0.5em; line-height: 1.2; }
.marks i.best, .marks i.newest { top: auto; width: 11px; height: 11px; margin: 0 0 -5.5px -5.5px;
  border: 2px solid var(--ink); border-radius: 50%; background: var(--paper); }
.marks i.newest { border-radius: 0; width: 9px; height: 9px; margin: 0 0 -4.5px -4.5px; }
.cursor { position: absolute; top: 0; bottom: 0; left: calc(var(--share) * 100%);
  border-left: 1px solid var(--ink); pointer-events: none; }
.cursor b { position: absolute; top: 100%; margin-top: 5px; color: var(--paper);
  transform: translateX(calc(var(--share) * -100%));
  background: var(--ink); padding: 0 0.5em; border-radius: 2px; z-index: 2; }
.drag { position: absolute; top: 0; bottom: 0; background: var(--run0); opacity: 0.15; pointer-events: none; }
@media (max-width: 40rem) {
  .plot, figcaption { margin-left: 2.6rem; padding-left: 0; }
  figcaption { margin-left: 0; }
  .legend { margin-left: 0; width: 100%; }
  .marks b { display: none; }
  #loss .plot { height: 15rem; }
}
@media print { .chart { break-inside: avoid; } }
"""

# ---- inside a model

INSIDE = """
main { --tint: color-mix(in srgb, var(--run0) 28%, transparent); }
.token { unicode-bidi: isolate; white-space: pre; }
.token sub { font-size: 0.7em; vertical-align: -0.25em; line-height: 0; opacity: 0.75; }
.bytes, .end { font-size: 0.85em; color: var(--soft); }
.bytes { font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
.text { margin: 0.9rem 0 0; display: flex; flex-wrap: wrap; gap: 4px 2px; font-size: 1.07rem; }
.text .token { padding: 0.1em 0.3em; border-radius: 3px;
  border-bottom: 1px solid var(--rule);
  background: color-mix(in srgb, var(--eval) calc(var(--heat, 0) * 55%), transparent); }

.maps { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 1fr); gap: 1.5rem 2.5rem;
  margin-top: 1.2rem; align-items: start; }
.maps figure { grid-area: 1 / 1; margin: 0; outline: none; container-type: inline-size; }
figure:focus-visible .heat { outline: 2px solid var(--run0); outline-offset: 3px; }
figcaption { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: baseline; }
.scale { margin-left: auto; color: var(--soft); font-size: 0.8rem; }
.scale i { display: inline-block; width: 0.9em; height: 0.9em; margin: 0 0.3em 0 0.7em;
  vertical-align: -0.1em; background: var(--run0); }
.read { margin: 0.3rem 0 0.4rem; min-height: 1.5em; color: var(--soft); font-size: 0.87rem; }
.read b { color: var(--ink); font-weight: 600; }
.grid { --cell: clamp(0.78rem, calc((100cqw - 6.2rem) / var(--n)), 2.2rem); display: grid; width: max-content;
  grid-template-columns: auto auto; font-size: min(0.8rem, calc(var(--cell) * 0.82)); }
.queries { position: sticky; left: 0; z-index: 1; background: var(--paper); text-align: right; }
.queries .token, .keys .token { display: block; overflow: hidden; text-overflow: ellipsis;
  color: var(--soft); }
.queries .token { height: var(--cell); line-height: var(--cell); max-width: 6rem; padding: 0 0.5em 0 0; }
.keys { grid-column: 2; display: flex; }
.keys .token { width: var(--cell); line-height: var(--cell); max-height: 6rem; padding: 0.4em 0 0;
  writing-mode: vertical-rl; }
.grid .here { color: var(--ink); font-weight: 600; }
.heat { position: relative; width: calc(var(--cell) * var(--n)); height: calc(var(--cell) * var(--n));
  border: solid var(--soft); border-width: 0 0 1px 1px; cursor: crosshair; box-sizing: content-box;
  background: linear-gradient(to top right, var(--band) 50%, transparent 50%); }
.ink { display: block; width: 100%; height: 100%; background: var(--run0); mask-size: 100% 100%;
  mask-repeat: no-repeat; image-rendering: pixelated; print-color-adjust: exact; }
.heat .row, .heat .column { position: absolute; pointer-events: none; border: 1px solid var(--soft); }
.heat .row { left: 0; right: 0; height: var(--cell); border-width: 1px 0; }
.heat .column { top: 0; bottom: 0; width: var(--cell); border-width: 0 1px; }
.heads { grid-area: 1 / 2; display: grid; gap: 4px; align-items: center; justify-content: start;
  grid-template-columns: auto repeat(var(--heads), minmax(0, 5.5rem)); }
.heads b { font-weight: 400; font-size: 0.75rem; color: var(--soft); text-align: center; }
.heads b:first-child { text-align: left; }
.heads button { padding: 0; aspect-ratio: 1; border-radius: 0; background: var(--band); overflow: hidden; }
.heads button[aria-pressed="true"] { border-color: var(--ink); outline: 1px solid var(--ink); }
.maps.large { grid-template-columns: minmax(0, 1fr); }
.large figure, .large .heads { grid-area: auto; }

.guesses { display: flex; flex-wrap: wrap; gap: 3px 5px; color: var(--soft); }
.guesses > span { padding: 0 0.45em; border-radius: 3px; border: 1px solid var(--faint); font-size: 0.95em;
  background: linear-gradient(to right, var(--tint) var(--p), transparent 0); }
.guesses .token { color: var(--ink); }
.guesses .true { border-color: var(--ink); }
#predictions td { white-space: normal; }
#predictions td:nth-child(-n+5) { white-space: nowrap; }
.bar { padding-left: 0.5em; min-width: 5.5rem;
  background: linear-gradient(to right, var(--tint) var(--share), transparent 0); }
#norms td:last-child, #norms td:first-child { width: auto; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--soft); font-size: 0.87rem; }

@media (max-width: 40rem) {
  .maps { grid-template-columns: minmax(0, 1fr); }
  .maps figure, .heads { grid-area: auto; }
  #predictions tr { display: grid; grid-template-columns: 2.6rem 1fr 1fr 4.4rem 3.2rem; }
  #predictions th, #predictions td:nth-child(-n+5) { border-bottom: 0; padding-right: 0.6rem; }
  #predictions .n { text-align: left; }
  #predictions tr > :last-child { grid-column: 2 / -1; }
}
"""
