// Before the first paint: the theme and the language of the last visit, else of the browser.
(() => {
  const kept = (name) => {
    try {
      return localStorage.getItem(name);
    } catch {
      return null; // storage is forbidden: the browser's own choice
    }
  };
  const root = document.documentElement;
  const theme = kept("relsdk.theme") || "system";
  const dark = theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.dataset.theme = dark ? "dark" : "light";
  root.dataset.choice = theme;
  const language = kept("relsdk.language") || navigator.language || "en";
  root.lang = language.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
})();
