"""The page's style sheet: light, system fonts, one accent, no external request."""

CSS = """
:root{color-scheme:light;--bg:#f5f6f8;--card:#fff;--ink:#16202e;--muted:#5b6776;--line:#e2e6eb;
--accent:#2454d6;--accent-soft:#eaf0fe;--right:#0f7b4d;--right-soft:#e6f4ed;--wrong:#b93a0a;
--wrong-soft:#fdeee7;--partly:#8a6100;--partly-soft:#fbf3dc;--true:#0b1f3a;--said:#d6006c;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 var(--sans);
font-variant-numeric:tabular-nums}
h1,h2,h3,p,figure,dl,dd,ul{margin:0}
h1{font-size:32px;line-height:1.15;letter-spacing:-.02em;font-weight:700;overflow-wrap:anywhere}
h2{font-size:21px;line-height:1.25;letter-spacing:-.01em}
h3{font-size:15px;margin:26px 0 10px;color:var(--muted);font-weight:600}
a{color:inherit;text-decoration:none}
small{font-size:.82em;color:var(--muted);font-weight:400}
.muted,.note{color:var(--muted)}
.note{font-size:13.5px;margin-top:6px}
.pixels{font-size:12px;word-spacing:.12em}
.shell{display:grid;grid-template-columns:224px minmax(0,1fr);max-width:1560px;margin:0 auto}
nav{position:sticky;top:0;align-self:start;height:100vh;overflow:auto;padding:28px 12px 28px 24px;
font-size:13.5px}
nav b{display:block;font-size:11px;text-transform:uppercase;letter-spacing:.08em;
color:var(--muted);margin:20px 10px 6px}
nav a{display:flex;justify-content:space-between;gap:10px;padding:5px 10px;border-radius:7px}
nav a:hover{background:#e9ecf1}
nav a span:last-child{color:var(--muted);white-space:nowrap}
main{padding:28px 32px 80px 16px;min-width:0}
section,.hero{background:var(--card);border:1px solid var(--line);border-radius:14px;
padding:24px 26px;margin-bottom:20px;scroll-margin-top:16px}
.hero{padding:30px 30px 26px}
.eyebrow{font-size:12px;letter-spacing:.09em;text-transform:uppercase;color:var(--accent);
font-weight:650;margin-bottom:8px}
.hero .sub{color:var(--muted);font-size:16px;margin-top:6px}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:16px 24px;
margin-top:24px;padding-top:20px;border-top:1px solid var(--line)}
.facts dt{font-size:12px;color:var(--muted)}
.facts dd{font-weight:600;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px;
margin-top:24px}
.tile{background:var(--accent-soft);border-radius:11px;padding:14px 16px}
.tile b{display:block;font-size:27px;line-height:1.15;letter-spacing:-.02em}
.tile span{font-size:13px;color:#3b4a66}
.board{display:grid;gap:2px;margin-top:16px}
.row{display:grid;grid-template-columns:minmax(120px,210px) minmax(0,1fr) 84px;gap:18px;
align-items:center;padding:7px 8px;border-radius:8px}
a.row:hover{background:var(--bg)}
.row .name{line-height:1.3}
.row .name small{display:block}
.row .value{font-weight:700;font-size:17px;text-align:right}
.track{position:relative;height:14px;background:#eceff3;border-radius:4px}
.track .fill{position:absolute;inset:0 auto 0 0;background:var(--accent);border-radius:4px}
.track .fill.below{background:repeating-linear-gradient(45deg,#8a94a6 0 5px,#a7b0be 5px 9px)}
.track .tick{position:absolute;top:-5px;bottom:-5px;width:0;border-left:2px solid var(--ink);
box-shadow:-1px 0 0 #fff,2px 0 0 #fff}
.track .tick.aim{border-left:2px dotted var(--right)}
.track .tick.floor{border-left:2px dashed var(--wrong)}
.keys{display:flex;flex-wrap:wrap;gap:6px 20px;font-size:13px;color:var(--muted);margin-top:10px}
.keys i{display:inline-block;height:14px;vertical-align:-2px;margin-right:7px}
.keys .fill{width:22px;background:var(--accent);border-radius:3px}
.keys .fill.below{background:repeating-linear-gradient(45deg,#8a94a6 0 5px,#a7b0be 5px 9px)}
.keys .tick{border-left:2px solid var(--ink)}
.keys .tick.aim{border-left:2px dotted var(--right)}
.keys .tick.floor{border-left:2px dashed var(--wrong)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr));gap:14px;
margin-top:16px}
.charts figure{border:1px solid var(--line);border-radius:10px;padding:8px 8px 4px}
.charts img{display:block;width:100%;height:auto}
.scroll{overflow-x:auto;margin-top:14px}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:8px 12px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{font-size:12.5px;color:var(--muted);font-weight:600;border-bottom:1px solid #cfd5dd}
tbody th{font-weight:600}
table.words td:nth-child(2),table.words th:nth-child(2){text-align:left}
tbody tr:last-child>*{border-bottom:0}
.task>header{display:flex;flex-wrap:wrap;justify-content:space-between;align-items:baseline;
gap:4px 24px}
.score b{font-size:22px;letter-spacing:-.01em}
.tally{display:flex;flex-wrap:wrap;gap:6px 18px;align-items:center;margin-top:12px;font-size:13px}
.tally .bar{display:flex;gap:2px;height:8px;flex:1 0 100%;border-radius:4px;overflow:hidden}
.tally .bar i{min-width:2px}
.bar i.right{background:var(--right)}
.bar i.partly{background:repeating-linear-gradient(45deg,#d9a514 0 4px,#efc95a 4px 7px)}
.bar i.wrong{background:repeating-linear-gradient(-45deg,#c9430c 0 3px,#ea8d63 3px 6px)}
.tally span{display:inline-flex;align-items:center;gap:6px}
.bar-line{display:flex;flex-wrap:wrap;justify-content:space-between;align-items:center;
gap:8px 20px;margin-top:8px}
.filter{display:flex;border:1px solid var(--line);border-radius:8px;overflow:hidden;font-size:13px}
.filter input{position:absolute;opacity:0;pointer-events:none}
.filter span{display:block;padding:5px 12px;white-space:nowrap;cursor:pointer;color:var(--muted)}
.filter label+label{border-left:1px solid var(--line)}
.filter input:checked+span{background:var(--accent-soft);color:var(--accent);font-weight:600}
.filter input:focus-visible+span{outline:2px solid var(--accent);outline-offset:-2px}
.task:has(.show-right:checked) .card:not(.right){display:none}
.task:has(.show-wrong:checked) .card:is(.right,.none){display:none}
.empty.for-right,.empty.for-wrong{display:none;flex:1 0 100%}
.task:has(.show-right:checked) .for-right,.task:has(.show-wrong:checked) .for-wrong{display:block}
.legend{display:flex;flex-wrap:wrap;gap:6px 22px;font-size:13px;color:var(--muted);margin-top:8px}
.key i{display:inline-block;width:20px;height:13px;margin-right:7px;vertical-align:-2px}
.key .solid{border:2px solid var(--true)}
.key .dashed{border:2px dashed var(--said)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(188px,100%),1fr));gap:14px;
margin-top:16px}
.grid.wide{grid-template-columns:repeat(auto-fill,minmax(min(440px,100%),1fr))}
.grid.text{grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr))}
.common{font-size:13.5px;margin-top:8px}
.card{display:flex;flex-direction:column;border:1px solid var(--line);border-radius:11px;
overflow:hidden;background:#fff;border-top:3px solid #c4cbd4}
.card.right{border-top-color:var(--right)}
.card.partly{border-top:3px dashed #c08a00}
.card.wrong{border-top:3px dashed var(--wrong)}
.card>figure{background:#eef0f3;display:flex;justify-content:center}
.card figure img{display:block;width:100%;height:auto;max-height:300px;object-fit:contain;
image-rendering:auto}
.four{display:grid;grid-template-columns:repeat(4,1fr);gap:1px;background:var(--line)}
.two{grid-template-columns:repeat(2,1fr)}
.four figure{background:#fff}
.four figcaption{font-size:12px;color:var(--muted);text-align:center;padding:4px 2px}
.blank{padding:40px 10px;color:var(--muted);font-size:13px;text-align:center;width:100%}
.grid.side{grid-template-columns:repeat(auto-fill,minmax(min(330px,100%),1fr))}
.side .card{flex-direction:row;border-top-width:1px;border-left:3px solid #c4cbd4}
.side .card.right{border-color:var(--line);border-left-color:var(--right)}
.side .card.wrong{border:1px solid var(--line);border-left:3px dashed var(--wrong)}
.side .card>figure{flex:0 0 40%;align-items:flex-start;background:none;padding:12px 0 12px 12px}
.side .card img{border-radius:7px;box-shadow:0 0 0 1px var(--line)}
.side .body{min-width:0;flex:1}
.side dl,.text dl{grid-template-columns:minmax(0,1fr)!important;gap:1px!important}
.side dt,.text dt{margin-top:6px}
.body{padding:9px 12px 12px}
.verdict{display:flex;align-items:center;gap:7px;font-weight:650;font-size:13.5px}
.verdict .measure{margin-left:auto;color:var(--muted);font-weight:500;font-size:12.5px;
text-align:right}
.none .measure{margin-left:0;font-size:14px;color:var(--ink);font-weight:600}
.icon{width:16px;height:16px;flex:none}
.icon path{fill:none;stroke:#fff;stroke-width:1.9;stroke-linecap:round;stroke-linejoin:round}
.right .icon,.icon.right{fill:var(--right)}
.wrong .icon{fill:var(--wrong)}
.partly .icon{fill:#a87400}
.right .verdict span:first-of-type,.tally .right{color:var(--right)}
.wrong .verdict span:first-of-type,.tally .wrong{color:var(--wrong)}
.partly .verdict span:first-of-type,.tally .partly{color:var(--partly)}
.asked{color:var(--muted);font-size:12.5px;line-height:1.4;margin-top:6px;overflow-wrap:anywhere}
.card dl{display:grid;grid-template-columns:auto minmax(0,1fr);gap:4px 9px;margin-top:8px;
font-size:13.5px;line-height:1.4;align-items:baseline}
.card dt{font-size:11.5px;color:var(--muted)}
.card dd{overflow-wrap:anywhere}
.card ul{padding-left:16px;font-size:13px;color:#384454}
.wrong .said{text-decoration:underline wavy var(--wrong) 1px;text-underline-offset:4px}
.pill{display:inline-block;background:#eaedf2;border-radius:5px;padding:0 6px;font-size:12px;
font-family:var(--mono);color:#384454}
.pill.mask{background:var(--ink);color:#fff}
del{text-decoration:underline wavy var(--wrong) 1px;text-underline-offset:4px;
background:var(--wrong-soft);border-radius:3px;padding:0 2px}
ins{text-decoration:none;background:var(--right-soft);box-shadow:inset 0 -2px var(--right);
border-radius:3px;padding:0 2px;font-weight:600}
.empty,.missing{background:var(--partly-soft);border-radius:9px;padding:11px 15px;margin-top:14px;
font-size:14px}
.missing ul{padding-left:18px}
details{margin-top:16px}
summary{cursor:pointer;font-weight:600}
pre{font:12px/1.55 var(--mono);background:var(--bg);border-radius:9px;padding:14px 16px;
overflow:auto;max-height:520px;margin:10px 0 0}
footer{color:var(--muted);font-size:13px;padding:4px 8px}
@media (max-width:1080px){.shell{display:block}nav{display:none}main{padding:16px 14px 60px}}
@media (max-width:620px){h1{font-size:25px}section,.hero{padding:18px 15px;border-radius:11px}
.grid{grid-template-columns:repeat(2,minmax(0,1fr));gap:10px}
.grid.wide,.grid.text,.grid.side{grid-template-columns:minmax(0,1fr)}
.row{grid-template-columns:minmax(0,1fr) 76px;gap:4px 12px}.row .track{grid-row:2;grid-column:1/3}}
@media print{nav,.filter{display:none}.shell{display:block}section{break-inside:avoid-page}}
"""
