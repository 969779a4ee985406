// The form of a notification: counters of characters, and searches that fill the text fields of students and people.
// Without scripts, the fields take numbers and usernames.

// ── Counters ─────────────────────────────────────────────────────────────────────────────────────────────────────
const NEAR = 0.9;

document.querySelectorAll("[data-counts]").forEach((field) => {
  const most = Number(field.dataset.counts);
  const counter = document.createElement("p");
  counter.className = "text-count";
  counter.setAttribute("aria-hidden", "true"); // the browser says when the field is full
  field.after(counter);
  const show = () => {
    counter.textContent = `${field.value.length.toLocaleString("en")} / ${most.toLocaleString("en")}`;
    counter.classList.toggle("is-near", field.value.length > most * NEAR);
  };
  field.addEventListener("input", show);
  show();
});

// ── Pickers: the chips are the values of a text field, which the form sends ─────────────────────────────────────────
const valuesOf = (field) => field.value.split(/[,;\n]/).map((part) => part.trim()).filter(Boolean);

function setUpPicker(picker) {
  const [chips, field] = [picker.querySelector(".picked"), picker.querySelector(":scope > input")];
  const labels = new Map([...chips.children].map((chip) => [chip.dataset.value.toLowerCase(), chip.textContent.trim()]));
  field.before(picker.querySelector("template").content.cloneNode(true));
  const [search, found] = [picker.querySelector("[type=search]"), picker.querySelector(".picker-found")];
  const options = () => [...found.querySelectorAll("[data-picks]")];

  function write(values) {
    field.value = values.join(", ");
    draw();
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function draw() {
    chips.replaceChildren(...valuesOf(field).map((value) => {
      const chip = document.createElement("li");
      const label = labels.get(value.toLowerCase());
      chip.classList.toggle("is-unknown", !label);
      chip.append(Object.assign(document.createElement("span"), { textContent: label ?? value }), removal(value, label));
      return chip;
    }));
  }

  function removal(value, label) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Remove ${label ?? value}`);
    button.innerHTML = '<svg class="icon" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" aria-hidden="true"><path d="M18 6l-12 12M6 6l12 12"/></svg>';
    button.addEventListener("click", () => {
      write(valuesOf(field).filter((each) => each !== value));
      search.focus();
    });
    return button;
  }

  function pick(option) {
    labels.set(option.dataset.picks.toLowerCase(), option.dataset.label);
    const others = valuesOf(field).filter((value) => value.toLowerCase() !== option.dataset.picks.toLowerCase());
    close();
    search.value = "";
    write([...others, option.dataset.picks]);
    search.focus();
  }

  function close() {
    found.replaceChildren();
    search.setAttribute("aria-expanded", "false");
    search.removeAttribute("aria-activedescendant");
  }

  function select(step) {
    const all = options();
    if (!all.length) return;
    const from = all.findIndex((option) => option.getAttribute("aria-selected") === "true");
    const next = all[(from + step + all.length + (from < 0 && step < 0 ? 1 : 0)) % all.length];
    all.forEach((option) => option.setAttribute("aria-selected", String(option === next)));
    search.setAttribute("aria-activedescendant", next.id);
    next.scrollIntoView({ block: "nearest" });
  }

  search.addEventListener("input", (event) => event.stopPropagation()); // what is searched is not a target yet
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      select(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Enter") {
      event.preventDefault();
      const chosen = found.querySelector('[aria-selected="true"]') ?? options()[0];
      if (chosen) pick(chosen);
    } else if (event.key === "Escape") {
      close();
    }
  });
  found.addEventListener("click", (event) => {
    const option = event.target.closest("[data-picks]");
    if (option) pick(option);
  });
  found.addEventListener("htmx:afterSwap", () => {
    options().forEach((option, number) => { option.id = `${found.id}-${number}`; option.tabIndex = -1; });
    search.setAttribute("aria-expanded", String(options().length > 0));
  });
  document.addEventListener("click", (event) => { if (!picker.contains(event.target)) close(); });

  picker.querySelector("label").htmlFor = search.id = `${field.id}-search`;
  search.setAttribute("aria-describedby", field.getAttribute("aria-describedby"));
  field.type = "hidden";
  picker.classList.add("picker-ready");
  draw();
  htmx.process(picker);
}

document.documentElement.classList.add("with-scripts");
document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("[data-picker]").forEach(setUpPicker));
