// The chart to zoom into: it replaces the drawing of the server, from the same values, when the user asks for it.
const ZOOM_HEIGHT = 220;
const zooms = new Map(); // the uPlot of each figure, by its id

// The colours are light-dark() pairs: only the computed colour of an element is that of the theme.
function colorOf(token, className = "") {
  const probe = Object.assign(document.createElement("span"), { className });
  probe.style.color = `var(${token})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

const chartData = (figure) => JSON.parse(figure.dataset.chart);
const columnsOf = (data) => [data.at, ...data.series.map((series) => series.values)];

function drawMarks(figure) {
  return (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = colorOf("--ink-3");
    ctx.setLineDash([6, 4]);
    for (const at of chartData(figure).marks) {
      const x = plot.valToPos(at, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };
}

// In the zone of the page's times, as the server writes them.
function timeTexts(zone) {
  const format = (options) => new Intl.DateTimeFormat("en-GB", { timeZone: zone, ...options });
  const [clock, day] = [format({ hour: "2-digit", minute: "2-digit" }), format({ day: "numeric", month: "short" })];
  const exact = format({ weekday: "short", day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
  return {
    tick: (at) => (clock.format(at * 1000) === "00:00" ? day.format(at * 1000) : clock.format(at * 1000)),
    exact: (at) => exact.format(at * 1000),
  };
}

function openZoom(figure, box) {
  const [data, texts] = [chartData(figure), timeTexts(figure.dataset.zone)];
  const axis = { stroke: () => colorOf("--ink-3"), grid: { stroke: () => colorOf("--line"), width: 1 }, ticks: { show: false } };
  const options = {
    width: box.clientWidth,
    height: ZOOM_HEIGHT,
    series: [
      { value: (_, at) => (at === null ? "–" : texts.exact(at)) },
      ...data.series.map(({ name, tone }) => ({ label: name, stroke: () => colorOf("--tone", `tone-${tone}`), width: 2, spanGaps: false, points: { show: data.at.length < 100 } })),
    ],
    axes: [{ ...axis, values: (_, times) => times.map(texts.tick) }, { ...axis, size: 48 }],
    tzDate: (at) => uPlot.tzDate(new Date(at * 1000), figure.dataset.zone),
    scales: { y: { range: (_, least, most) => [0, Math.max(most ?? 0, 2)] } },
    cursor: { drag: { x: true, y: false } },
    hooks: { draw: [drawMarks(figure)] },
  };
  const plot = new uPlot(options, columnsOf(data), box);
  Object.assign(box, { tabIndex: 0 });
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Chart to zoom into: plus and minus zoom, arrow keys move, Home shows the whole time");
  const help = document.createElement("p");
  help.className = "chart-zoom-help";
  help.textContent = "Drag to zoom, double-click for the whole time. With the keyboard: + and − zoom, the arrow keys move, Home shows the whole time.";
  box.append(help);
  zooms.set(figure.id, plot);
  box.focus();
}

function closeZoom(figure, box) {
  zooms.get(figure.id)?.destroy();
  zooms.delete(figure.id);
  box.replaceChildren();
  for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
}

function moveZoom(plot, key) {
  const times = plot.data[0];
  const [first, last] = [times[0], times.at(-1)];
  let { min, max } = plot.scales.x;
  const size = max - min;
  if (key === "+" || key === "=") [min, max] = [min + size / 4, max - size / 4];
  else if (key === "-") [min, max] = [min - size / 2, max + size / 2];
  else if (key === "ArrowLeft") [min, max] = [min - size / 4, max - size / 4];
  else if (key === "ArrowRight") [min, max] = [min + size / 4, max + size / 4];
  else if (key === "Home") [min, max] = [first, last];
  else return false;
  // Within the values, and never closer than two of them.
  const least = Math.min((last - first), 2 * (times[1] - times[0]));
  const wanted = Math.min(Math.max(max - min, least), last - first);
  min = Math.min(Math.max(min, first), last - wanted);
  plot.setScale("x", { min, max: min + wanted });
  return true;
}

function showZoomButtons() {
  document.querySelectorAll("[data-zooms]").forEach((button) => {
    button.hidden = false;
    button.setAttribute("aria-pressed", String(zooms.has(button.dataset.zooms)));
  });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-zooms]");
  if (!button) return;
  const figure = document.getElementById(button.dataset.zooms);
  const box = document.getElementById(`${figure.id}-zoom`);
  if (zooms.has(figure.id)) closeZoom(figure, box);
  else openZoom(figure, box);
  showZoomButtons();
});

document.addEventListener("keydown", (event) => {
  const box = event.target.closest?.(".chart-zoom");
  const plot = box && zooms.get(box.closest(".chart").id);
  if (plot && !event.ctrlKey && !event.metaKey && moveZoom(plot, event.key)) event.preventDefault();
});

// A live refresh brings new values: the part that the user looks at stays.
document.addEventListener("htmx:afterSettle", () => {
  for (const [id, plot] of zooms) {
    const figure = document.getElementById(id);
    if (!figure?.dataset.chart || !plot.root.isConnected) {
      plot.destroy();
      zooms.delete(id);
      continue;
    }
    const { min, max } = plot.scales.x;
    const [before, after] = [plot.data[0], chartData(figure)];
    const isWhole = min <= before[0] && max >= before.at(-1);
    plot.setData(columnsOf(after), isWhole);
    if (!isWhole) plot.setScale("x", { min, max });
  }
  showZoomButtons();
});

window.addEventListener("resize", () => {
  for (const plot of zooms.values()) plot.setSize({ width: plot.root.parentElement.clientWidth, height: ZOOM_HEIGHT });
});
new MutationObserver(() => zooms.forEach((plot) => plot.redraw(false, true)))
  .observe(document.documentElement, { attributes: true, attributeFilter: ["data-bs-theme"] });
document.addEventListener("DOMContentLoaded", showZoomButtons);
if (document.readyState !== "loading") showZoomButtons();
