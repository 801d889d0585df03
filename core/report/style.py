"""The style sheet of the HTML report: plain CSS text, inlined by html.py. No fonts, images or scripts are loaded."""

CSS = """
:root{color-scheme:light dark;--paper:#faf9f5;--card:#ffffff;--ink:#1d2125;--soft:#5b6168;--line:#e2dfd6;
--good:#0b6e4f;--good-wash:#e3f1ea;--kept:#2f6fb5;--kept-wash:#e4edf7;--warn:#95590a;--warn-wash:#f8ecd8;
--alarm:#b3261e;--alarm-wash:#fae3e0;--quiet:#858b92;--quiet-wash:#eeece6;--band:#2f6fb51f;--code:#f4f2ec}
@media(prefers-color-scheme:dark){:root{--paper:#15181b;--card:#1c2024;--ink:#e8e6e1;--soft:#a2a8ae;--line:#32373d;
--good:#5ec79d;--good-wash:#17352a;--kept:#7db2ec;--kept-wash:#1b2f45;--warn:#e3ac5c;--warn-wash:#3a2c14;
--alarm:#f08b81;--alarm-wash:#421f1c;--quiet:#8b929a;--quiet-wash:#292e33;--band:#7db2ec26;--code:#14171a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Helvetica,Arial,sans-serif}
main{max-width:1060px;margin:0 auto;padding:40px 28px 64px}
h1,h2,h3,p{margin:0}
a{color:var(--kept)}
code,pre,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.num{font-variant-numeric:tabular-nums;white-space:nowrap}
.eyebrow{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--soft);font-size:14px;margin-bottom:22px}
.eyebrow b{color:var(--ink);font-weight:600}
.verdict{border-left:6px solid var(--quiet);padding:4px 0 4px 22px;margin-bottom:30px}
.verdict.proven{border-color:var(--good)}.verdict.not_proven{border-color:var(--warn)}
.verdict h1{font-size:32px;line-height:1.22;letter-spacing:-.015em;font-weight:680;max-width:26em;text-wrap:balance}
.verdict p{margin-top:10px;max-width:52em}
.stamp{display:inline-block;border:1.5px solid var(--warn);color:var(--warn);border-radius:6px;padding:3px 12px;
font-size:14px;font-weight:600;margin-bottom:14px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(158px,1fr));gap:14px;margin-bottom:14px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px 22px;margin-bottom:14px}
.tiles .card{margin:0;padding:16px 20px}
.tile-name{color:var(--soft);font-size:13.5px}
.tile-value{font-size:28px;line-height:1.3;font-weight:640;letter-spacing:-.01em}
.tile-note{color:var(--soft);font-size:13.5px}
section{margin-top:40px}
h2{font-size:20px;letter-spacing:-.01em;margin-bottom:4px}
h2+p{color:var(--soft);margin-bottom:14px;max-width:54em;font-size:15px}
h3{font-size:14px;color:var(--soft);font-weight:600;margin-bottom:6px}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-family:inherit}
.grid,.rail{stroke:var(--line);stroke-width:1}
.tick{fill:var(--soft);font-size:12px;font-variant-numeric:tabular-nums}
.floor{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:6 5;opacity:.75}
.floor-label{fill:var(--soft);font-size:12.5px}
.band{fill:var(--band);stroke:none}
.stairs{fill:none;stroke:var(--kept);stroke-width:2.4;stroke-linejoin:round}
.here{fill:var(--kept);font-size:13px;font-weight:650}
.dot{stroke:var(--card);stroke-width:1.2;fill:var(--quiet)}
.dot.quiet{fill:var(--card);stroke:var(--quiet);stroke-width:1.6}
.dot.good{fill:var(--kept);stroke:var(--card);stroke-width:2}
.dot.good.proven{fill:var(--good)}
.dot.warn{fill:var(--warn)}.dot.alarm{fill:var(--alarm)}.dot.start{fill:var(--kept);opacity:.55;stroke:none}
.cross{fill:none;stroke:var(--quiet);stroke-width:2;stroke-linecap:round}
.cross.warn{stroke:var(--warn)}.cross.alarm{stroke:var(--alarm);stroke-width:2.8}
.proof line{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 4}.proof path{fill:var(--card);stroke:var(--soft);
stroke-width:1.5}
.proof.yes line{stroke:var(--good)}.proof.yes path{fill:var(--good);stroke:var(--good)}
.zero{stroke:var(--soft);stroke-width:1.4;stroke-dasharray:4 3}
.interval path{fill:none;stroke:var(--soft);stroke-width:3;stroke-linecap:round}
.interval circle{fill:var(--soft)}
.interval.good path{stroke:var(--good)}.interval.good circle{fill:var(--good)}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;margin:12px 0 0;padding:0;list-style:none;color:var(--soft);
font-size:13.5px}
.legend li{display:flex;align-items:center;gap:7px}
.legend svg{width:18px;height:14px;flex:none}
.ladder{display:flex;flex-wrap:wrap;gap:10px 0;list-style:none;margin:0;padding:0;align-items:stretch}
.ladder li{flex:1 1 150px;padding:2px 18px;border-left:3px solid var(--line)}
.ladder li.proven{border-color:var(--good)}
.ladder .name{font-weight:620}.ladder .value{font-size:24px;font-weight:640;line-height:1.3}
.ladder .note{color:var(--soft);font-size:13.5px}
td:first-child,th:first-child{padding-left:0}td:last-child,th:last-child{padding-right:0}
.wide{grid-column:1/-1}.guide p{margin-top:8px;max-width:62em;font-size:15px}
.two.middle{align-items:center}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:14px 28px;align-items:start}
table{border-collapse:collapse;width:100%;font-size:14.5px}
caption{text-align:left;color:var(--soft);font-size:13.5px;padding-bottom:8px}
th{text-align:left;color:var(--soft);font-weight:600;font-size:13px;padding:6px 10px;
border-bottom:1.5px solid var(--line);vertical-align:bottom}
td{padding:10px;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
th.right,td.right{text-align:right}
.scroll{overflow-x:auto}.chart>svg{min-width:720px}
.what{min-width:260px;max-width:430px;overflow-wrap:anywhere}
.sub{color:var(--soft);font-size:13.5px;overflow-wrap:anywhere}
.change{display:inline-block;background:var(--quiet-wash);border-radius:5px;padding:0 7px;margin:3px 5px 0 0;
font-size:12.5px;overflow-wrap:anywhere}
.pill{display:inline-block;border-radius:99px;padding:1px 10px;font-size:13px;font-weight:600;
background:var(--quiet-wash);color:var(--soft)}
.pill.good{background:var(--kept-wash);color:var(--kept)}.pill.proven{background:var(--good-wash);color:var(--good)}
.pill.warn{background:var(--warn-wash);color:var(--warn)}.pill.alarm{background:var(--alarm-wash);color:var(--alarm)}
.better{color:var(--good)}
tr.top td{border-bottom:0;padding-bottom:2px}tr.more td{padding-top:2px}
summary{cursor:pointer;color:var(--kept);font-size:13.5px;width:max-content}
summary:focus-visible{outline:2px solid var(--kept);outline-offset:2px;border-radius:3px}
pre{background:var(--code);border:1px solid var(--line);border-radius:8px;padding:12px 14px;margin:8px 0 0;
font-size:12.5px;line-height:1.5;white-space:pre-wrap;overflow-wrap:anywhere;max-height:430px;overflow-y:auto;
tab-size:4}
.plus{color:var(--good)}.minus{color:var(--alarm)}.at{color:var(--soft)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:5px 18px;margin:0;font-size:14.5px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}dd.mono{font-size:12.5px;line-height:1.8}
.next{list-style:none;margin:0;padding:0}.next li{padding:4px 0}
.next code{background:var(--quiet-wash);border-radius:5px;padding:2px 9px;margin-right:10px;font-size:14px;
white-space:nowrap}
footer{margin-top:44px;color:var(--soft);font-size:13.5px}
@media(max-width:640px){main{padding:24px 16px 40px}.verdict h1{font-size:25px}.card{padding:16px}}
@media print{:root{color-scheme:light;--paper:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#ccc;--good:#0b6e4f;
--kept:#2f6fb5;--warn:#95590a;--alarm:#b3261e;--quiet:#777;--good-wash:#fff;--kept-wash:#fff;--warn-wash:#fff;
--alarm-wash:#fff;--quiet-wash:#fff;--code:#fff;--band:#2f6fb51f}
main{max-width:none;padding:0}.card,tr{break-inside:avoid}.scroll{overflow:visible}.experiments{break-inside:auto}pre{max-height:none}
h2{break-after:avoid}section{margin-top:24px}body{font-size:12px}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""
