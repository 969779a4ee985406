// The board of work items: moves cards by mouse, touch and keyboard, and delays others' moves meanwhile. Without
// scripts a card is moved by its menu, which is a form.

const byId = (id) => document.getElementById(id);
const board = () => byId("board");
const cardsOf = (list) => [...list.querySelectorAll(":scope > .work-card")];
const listOf = (card) => card.closest("[data-column]");

// ── What the board says ──────────────────────────────────────────────────────────────────────────────────────────
const REFUSAL_SECONDS = 10;
let refusalEnds;

function say(text) {
  byId("board-says").textContent = text;
}

function refuse(text) {
  const notice = byId("board-refusal");
  notice.querySelector("p").textContent = text;
  notice.hidden = false;
  say(text);
  clearTimeout(refusalEnds);
  refusalEnds = setTimeout(() => { notice.hidden = true; }, REFUSAL_SECONDS * 1000);
}

function placeOf(card) {
  const list = listOf(card);
  const cards = cardsOf(list);
  return `${list.dataset.name}, ${cards.indexOf(card) + 1} of ${cards.length}`;
}

// ── Where a card lies, and how it is put back ────────────────────────────────────────────────────────────────────
const homeOf = (card) => ({
  list: listOf(card), before: card.nextElementSibling, aboveId: card.previousElementSibling?.dataset.id ?? "",
});
const isAt = (card, home) => listOf(card) === home.list && card.nextElementSibling === home.before;

function putBack(card, home) {
  home.list.insertBefore(card, home.before?.parentElement === home.list ? home.before : null);
}

// ── Saving ───────────────────────────────────────────────────────────────────────────────────────────────────────
const UNSAVED = "The move could not be saved. Reload the page and try again.";
let dragged = null;
let held = null; // the card that the keyboard has picked up, and its home
let saving = 0;
let moves = 0; // a response that was requested before a move does not include it

async function save(card, home) {
  const to = listOf(card);
  hideUndo();
  card.classList.add("is-saving");
  const refused = await move(card.dataset.moveUrl, home.list, to, card.previousElementSibling?.dataset.id ?? "");
  card.classList.remove("is-saving");
  if (refused) {
    const hadFocus = card.contains(document.activeElement) && document.activeElement;
    putBack(card, home);
    if (hadFocus) hadFocus.focus();
    refuse(`${refused} ${card.dataset.name} is back in ${home.list.dataset.name}.`);
  } else {
    say(`${card.dataset.name} was moved to ${placeOf(card)}. The Undo button comes before the board.`);
    offerUndo({ url: card.dataset.moveUrl, name: card.dataset.name, cardId: card.id, home, to });
  }
  if (board()) htmx.trigger(board(), "live");
}

// Why it was refused, or nothing.
async function move(url, from, to, belowId) {
  const body = new URLSearchParams({
    status: to.dataset.column, expected_status: from.dataset.column, below_id: belowId,
  });
  const token = byId("move-form").elements.csrf_token.value;
  saving += 1;
  const refused = await ask(url, { method: "POST", body, headers: { Accept: "application/json", "X-CSRFToken": token } });
  saving -= 1;
  moves += 1;
  return refused;
}

// ── Undo: offered for a while after a move, and longer while the button has the focus ───────────────────────────
const UNDO_SECONDS = 15;
let undoable = null;
let undoEnds;

function offerUndo(made) {
  undoable = made;
  const notice = byId("board-undo");
  notice.querySelector("p").textContent = `${made.name} was moved to “${made.to.dataset.name}”.`;
  notice.hidden = false;
  scheduleUndoEnd();
}

function scheduleUndoEnd() {
  clearTimeout(undoEnds);
  undoEnds = setTimeout(() => {
    if (byId("board-undo")?.matches(":hover, :focus-within")) scheduleUndoEnd();
    else hideUndo();
  }, UNDO_SECONDS * 1000);
}

function hideUndo() {
  undoable = null;
  clearTimeout(undoEnds);
  if (byId("board-undo")) byId("board-undo").hidden = true;
}

document.addEventListener("click", async (event) => {
  if (!event.target.closest("#board-undo button") || !undoable) return;
  const { url, name, cardId, home, to } = undoable;
  hideUndo();
  const refused = await move(url, to, home.list, home.aboveId);
  if (refused) refuse(refused);
  else say(`${name} is back in ${home.list.dataset.name}.`);
  if (board()) htmx.trigger(board(), "live");
  document.querySelector(`#${cardId} .card-handle`)?.focus();
});

async function ask(url, request) {
  try {
    const answer = await fetch(url, request);
    if (answer.redirected) location.assign(answer.url); // the session has ended: to the login
    if (answer.ok) return answer.redirected ? UNSAVED : null;
    return (await answer.json()).message ?? UNSAVED;
  } catch {
    return UNSAVED;
  }
}

// ── By mouse and finger ──────────────────────────────────────────────────────────────────────────────────────────
const sortables = new WeakSet();

function makeSortable() {
  document.querySelectorAll("[data-column]").forEach((list) => {
    if (sortables.has(list)) return;
    sortables.add(list);
    Sortable.create(list, {
      group: "board", draggable: ".work-card", handle: ".may-move", filter: ".card-menu", preventOnFilter: false, animation: 140,
      // Not the browser's own dragging: under a finger that scrolls nothing.
      forceFallback: true, fallbackTolerance: 4, delay: 180, delayOnTouchOnly: true, touchStartThreshold: 6,
      emptyInsertThreshold: 60, scrollSensitivity: 48,
      ghostClass: "is-ghost", dragClass: "is-dragged",
      onStart: ({ item }) => { dragged = { card: item, home: homeBeforeDrag }; board().classList.add("is-moving"); },
      onChoose: ({ item }) => { homeBeforeDrag = homeOf(item); },
      onEnd: drop,
    });
  });
}

let homeBeforeDrag;

function drop() {
  const { card, home } = dragged;
  dragged = null;
  board().classList.remove("is-moving");
  // Sortable swallows the click that follows a drag. None follows a finger's: it would swallow the next tap.
  setTimeout(() => document.body.click());
  if (!isAt(card, home)) save(card, home);
}

// ── By keyboard: the handle picks a card up, the arrows move it, the handle drops it ─────────────────────────────
let isShifting = false; // moving a node in the document takes the focus from it for a moment

function pickUp(handle) {
  const card = handle.closest(".work-card");
  held = { card, handle, home: homeOf(card) };
  show(true);
  say(`${card.dataset.name} is picked up: ${placeOf(card)}. The arrow keys move it, Space drops it, Escape puts it back.`);
}

function letGo() {
  const { card, home } = held;
  show(false);
  held = null;
  if (isAt(card, home)) say(`${card.dataset.name} stays where it was.`);
  else save(card, home);
}

function cancel() {
  const { card, handle, home } = held;
  shift(() => putBack(card, home), handle);
  show(false);
  held = null;
  say(`${card.dataset.name} is back where it was: ${placeOf(card)}.`);
}

function show(isHeld) {
  held.card.classList.toggle("is-held", isHeld);
  held.handle.setAttribute("aria-pressed", String(isHeld));
  board().classList.toggle("is-moving", isHeld);
}

function shift(change, handle) {
  isShifting = true;
  change();
  handle.focus();
  isShifting = false;
}

function moveHeld(key) {
  const { card, handle } = held;
  const list = listOf(card);
  const cards = cardsOf(list);
  const place = cards.indexOf(card);
  const lists = [...document.querySelectorAll("[data-column]")];
  const beside = lists[lists.indexOf(list) + (key === "ArrowRight" ? 1 : -1)];
  const changes = {
    ArrowUp: place > 0 && (() => list.insertBefore(card, cards[place - 1])),
    ArrowDown: place < cards.length - 1 && (() => list.insertBefore(cards[place + 1], card)),
    ArrowLeft: beside && (() => beside.insertBefore(card, cardsOf(beside)[place] ?? null)),
    ArrowRight: beside && (() => beside.insertBefore(card, cardsOf(beside)[place] ?? null)),
  };
  if (changes[key]) shift(changes[key], handle);
  card.scrollIntoView({ block: "nearest", inline: "nearest" });
  say(placeOf(card));
}

// Enter, Space and a screen reader's activation are clicks without a place; a mouse drags.
document.addEventListener("click", (event) => {
  const handle = event.target.closest(".card-handle");
  if (!handle || event.detail !== 0) return;
  if (held) letGo();
  else if (!saving) pickUp(handle);
});

document.addEventListener("keydown", (event) => {
  if (!held) return;
  if (event.key.startsWith("Arrow")) moveHeld(event.key);
  else if (event.key === "Escape") cancel();
  else return;
  event.preventDefault();
});

document.addEventListener("focusout", () => { if (held && !isShifting) cancel(); });

// ── Live: others' moves are shown when no move is in progress here ────────────────────────────────────────────────────
const isBusy = () => Boolean(dragged || held || saving || document.querySelector(".card-menu[open], .work-card.sortable-chosen"));
const isBoard = (event) => event.detail.elt?.id === "board";

document.addEventListener("htmx:beforeRequest", (event) => {
  if (!isBoard(event)) return;
  if (isBusy()) event.preventDefault();
  else event.detail.xhr.movesBefore = moves;
});
document.addEventListener("htmx:beforeSwap", (event) => {
  if (isBoard(event) && (isBusy() || event.detail.xhr.movesBefore !== moves)) event.detail.shouldSwap = false;
});
document.addEventListener("htmx:afterSettle", makeSortable);
if (board()) makeSortable();

// ── The list: one box checks all, and says how many are chosen ───────────────────────────────────────────────────
document.addEventListener("change", (event) => {
  const boxes = [...document.querySelectorAll(".bulk-check")];
  if (event.target.matches("[data-check-all]")) boxes.forEach((box) => { box.checked = event.target.checked; });
  else if (!event.target.matches(".bulk-check")) return;
  const number = boxes.filter((box) => box.checked).length;
  document.querySelector("[data-check-all]").checked = number === boxes.length;
  document.querySelector("[data-check-count]").textContent = `${number} chosen:`;
});
