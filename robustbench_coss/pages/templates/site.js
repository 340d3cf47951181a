// The theme, and how elements are made. Text goes in as text nodes only, never as markup.

const THEME = "coss-bench-theme";
const root = document.documentElement;

const remembered = () => {
  try {
    return localStorage.getItem(THEME);
  } catch {
    return null; // storage is switched off
  }
};
const remember = (theme) => {
  try {
    localStorage.setItem(THEME, theme);
  } catch {
    // then it lasts for this page
  }
};
// Before anything is painted.
const chosen = remembered();
if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

/** An element with attributes and children; strings become text. */
const make = (name, attributes = {}, ...children) => {
  const svg = ["svg", "g", "path"].includes(name);
  const made = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

const themeButton = () => {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${dark() ? "light" : "dark"} theme`);
  };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    remember(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
  button.hidden = false;
};

