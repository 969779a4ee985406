// Loaded in <head>, before the first paint: sets the colour scheme so that a dark page never flashes white.
// The choice ("light", "dark", or none: follow the system) is kept in localStorage by app.js.
(() => {
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

  function storedTheme() {
    try { return localStorage.getItem("belfry-theme"); } catch { return null; }
  }

  function applyTheme() {
    const theme = storedTheme() || (systemIsDark.matches ? "dark" : "light");
    document.documentElement.setAttribute("data-bs-theme", theme);
  }

  applyTheme();
  systemIsDark.addEventListener("change", applyTheme);
})();
