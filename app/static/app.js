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

// ── The bell: while the number is the same, the server says only that (304) ─────────────────────────────────────────
let bellTag = null;
const isBell = (event) => event.detail.elt?.id === "bell";

document.addEventListener("htmx:configRequest", (event) => {
  if (isBell(event) && bellTag) event.detail.headers["If-None-Match"] = bellTag;
});
document.addEventListener("htmx:beforeSwap", (event) => {
  if (!isBell(event)) return;
  if (event.detail.xhr.status === 304) event.detail.shouldSwap = false;
  else bellTag = event.detail.xhr.getResponseHeader("ETag");
});

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

// ── Morphing keeps what the person is doing: the field being typed in, opened details, an open dialog ────────────
Idiomorph.defaults.ignoreActiveValue = true;
Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, element) =>
  !(name === "open" && (element instanceof HTMLDetailsElement || element instanceof HTMLDialogElement));
