// Runs before the first paint, so that the page does not flash in the other colours. The choice is auto, light or dark;
// data-scheme on <html> says which of the two palettes of style.css holds.
(() => {
  const KEY = "minke.theme";
  const THEMES = ["auto", "light", "dark"];
  const system = matchMedia("(prefers-color-scheme: dark)");
  let theme = "auto";
  try {
    const stored = localStorage.getItem(KEY);
    if (THEMES.includes(stored)) theme = stored;
  } catch {
    // Storage is switched off: the choice holds for this visit.
  }

  function apply() {
    const dark = theme === "dark" || (theme === "auto" && system.matches);
    document.documentElement.dataset.scheme = dark ? "dark" : "light";
    dispatchEvent(new Event("themechange"));
  }

  function next() {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // As above.
    }
    apply();
  }

  system.addEventListener("change", apply);
  window.minkeTheme = { current: () => theme, next };
  apply();
})();
