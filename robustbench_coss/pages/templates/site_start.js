document.addEventListener("DOMContentLoaded", () => {
  themeButton();
  const boards = [...document.querySelectorAll(".board")];
  boards.forEach(interactive);
  tray(boards);
  compare();
  fades();
  document.addEventListener("toggle", fades, true); // what was folded had no width
});
