// What the pages need beyond htmx: the theme switch, dialogs, and live regions. No page depends on it to be read.

// ── Theme ────────────────────────────────────────────────────────────────────────────────────────────────────────
function toggleTheme() {
  const next = document.documentElement.getAttribute("data-bs-theme") === "dark" ? "light" : "dark";
  document.documentElement.setAttribute("data-bs-theme", next);
  try { localStorage.setItem("belfry-theme", next); } catch { /* private mode: the choice lasts for this page */ }
}

// ── Copying: the button is hidden where scripts do not run ───────────────────────────────────────────────────────
async function copyText(button) {
  const source = document.getElementById(button.dataset.copies);
  getSelection().selectAllChildren(source);
  let isCopied = true;
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch { // over plain HTTP there is no clipboard object
    isCopied = document.execCommand("copy");
  }
  button.querySelector("[aria-live]").textContent = isCopied ? "Copied" : "Selected: press Ctrl+C";
}

document.querySelectorAll("[data-copies]").forEach((button) => { button.hidden = false; });

// ── Clicks, delegated: they work in whatever htmx swaps in ───────────────────────────────────────────────────────
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.opens) document.getElementById(button.dataset.opens).showModal();
  else if (button?.hasAttribute("data-closes")) button.closest("dialog").close();
  else if (button?.dataset.copies) copyText(button);
  else if (button?.hasAttribute("data-theme-toggle")) toggleTheme();
  else if (button?.hasAttribute("data-live-toggle")) setLivePaused(button.getAttribute("aria-pressed") !== "true", button);

  if (event.target instanceof HTMLDialogElement) event.target.close(); // the backdrop
  document.querySelectorAll("details[data-menu][open]").forEach((menu) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details[data-menu][open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

// A second click must not send a form twice.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "true";
});
window.addEventListener("pageshow", () => {
  document.querySelectorAll("form[data-sent]").forEach((form) => delete form.dataset.sent);
});

// ── Live regions ─────────────────────────────────────────────────────────────────────────────────────────────────
// An element with data-live="SECONDS" and hx-trigger="live" is refreshed at that interval, while the tab is
// visible and the user has not paused it. When the work is done, the server omits data-live, and refreshing stops.
const lastRefresh = new WeakMap();
let isLivePaused = false;

function setLivePaused(paused, button) {
  isLivePaused = paused;
  button.setAttribute("aria-pressed", String(paused));
  showLiveState(paused ? "paused" : "live");
}

function showLiveState(state) {
  document.documentElement.dataset.liveState = state;
}

function refreshLiveRegions() {
  if (document.hidden || isLivePaused) return;
  const now = Date.now();
  document.querySelectorAll("[data-live]").forEach((region) => {
    if (now - (lastRefresh.get(region) ?? pageShownAt) < Number(region.dataset.live) * 1000 - 50) return;
    if (region.classList.contains("htmx-request")) return;
    lastRefresh.set(region, now);
    htmx.trigger(region, "live");
  });
}

const pageShownAt = Date.now();
setInterval(refreshLiveRegions, 500);
document.addEventListener("visibilitychange", refreshLiveRegions);

const isLive = (event) => event.detail.elt?.hasAttribute?.("data-live");
document.addEventListener("htmx:sendError", (event) => { if (isLive(event)) showLiveState("offline"); });
document.addEventListener("htmx:responseError", (event) => { if (isLive(event)) showLiveState("offline"); });
document.addEventListener("htmx:afterOnLoad", (event) => {
  if (isLive(event) && !isLivePaused) showLiveState("live");
});

// While a region is unchanged, the server sends only that (304). The tag belongs to what the region shows: anything else
// that is swapped in may have replaced it.
let liveTags = new WeakMap();

document.addEventListener("htmx:configRequest", (event) => {
  const known = isLive(event) && liveTags.get(event.detail.elt);
  if (known && known.path === event.detail.path) event.detail.headers["If-None-Match"] = known.tag;
});
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.xhr.status === 304) event.detail.shouldSwap = false;
});
document.addEventListener("htmx:afterSwap", (event) => {
  const { elt, xhr, pathInfo } = event.detail;
  const tag = isLive(event) && xhr.status === 200 && xhr.getResponseHeader("ETag");
  if (tag) liveTags.set(elt, { path: pathInfo.requestPath, tag });
  else liveTags = new WeakMap();
});

// ── Ages: counted here, so that they are right while a region is unchanged ───────────────────────────────────────────
const AGE_UNITS = [[60, 1, "s"], [3600, 60, "min"], [86400, 3600, "h"]];
const shownAges = new WeakMap();

function ageText(seconds) { // as the server writes it; from a day on it stays as it is
  const size = Math.abs(seconds);
  if (size < 2) return "just now";
  const unit = AGE_UNITS.find(([limit]) => size < limit);
  if (!unit) return null;
  const span = `${Math.floor(size / unit[1])} ${unit[2]}`;
  return seconds > 0 ? `${span} ago` : `in ${span}`;
}

function showAges() {
  if (document.hidden) return;
  document.querySelectorAll("time[data-age]").forEach((time) => {
    const written = `${time.dateTime} ${time.dataset.age}`;
    if (shownAges.get(time)?.written !== written) shownAges.set(time, { written, since: Date.now() });
    const text = ageText(Number(time.dataset.age) + (Date.now() - shownAges.get(time).since) / 1000);
    if (text && text !== time.textContent) time.textContent = text;
  });
}

showAges();
setInterval(showAges, 1000);

// ── A notification is read when its page is visible: the browser may have loaded it before ────────────────────────
function markShown() {
  const unread = document.getElementById("mark-read");
  if (document.hidden || !unread || unread.dataset.shown) return;
  unread.dataset.shown = "true";
  htmx.trigger(unread, "shown");
}

document.addEventListener("htmx:load", markShown);
document.addEventListener("visibilitychange", markShown);

// A session that ended answers with the login page: show it whole instead of morphing it into a table.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr, pathInfo } = event.detail;
  const answeredBy = xhr.responseURL && new URL(xhr.responseURL).pathname;
  const asked = pathInfo && new URL(pathInfo.finalRequestPath, location.href).pathname;
  if (!answeredBy || !asked || answeredBy === asked) return;
  event.detail.shouldSwap = false;
  location.assign(xhr.responseURL);
});

// Empty filters are left out of the URL.
document.addEventListener("htmx:configRequest", (event) => {
  if (event.detail.verb !== "get") return;
  for (const [name, value] of [...event.detail.formData]) if (value === "") event.detail.formData.delete(name);
});

// ── A row of filters that is wider than the screen shows the chosen one ──────────────────────────────────────────
// Only when another is chosen: a live refresh must not undo the person's own scrolling. The page itself stays put.
const shownChoices = new WeakMap();

function showChoices() {
  document.querySelectorAll(".tabs, .chips").forEach((row) => {
    const choice = row.querySelector("[aria-current]");
    if (!choice || shownChoices.get(row) === choice.getAttribute("href")) return;
    shownChoices.set(row, choice.getAttribute("href"));
    const [outer, inner] = [row.getBoundingClientRect(), choice.getBoundingClientRect()];
    if (inner.right > outer.right) row.scrollLeft += inner.right - outer.right + 16;
    if (inner.left < outer.left) row.scrollLeft += inner.left - outer.left - 16;
  });
}

showChoices();
document.addEventListener("htmx:afterSettle", showChoices);

// ── Morphing keeps what the person is doing: the field being typed in, opened details, an open dialog, selected rows, and
// elements with data-keep, whose content scripts make ──────────────────────────────────────────────────────────────────
Idiomorph.defaults.ignoreActiveValue = true;
Idiomorph.defaults.callbacks.beforeNodeMorphed = (old) => !(old instanceof Element && old.hasAttribute("data-keep"));
Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element) =>
  !(name === "open" && (element instanceof HTMLDetailsElement || element instanceof HTMLDialogElement)) &&
  !(name === "checked" && element.hasAttribute("data-keeps-checked"));
