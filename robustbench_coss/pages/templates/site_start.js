document.addEventListener("DOMContentLoaded", () => {
  themeButton();
  const boards = [...document.querySelectorAll(".board")];
  boards.forEach(interactive);
  document.querySelectorAll("[data-fade]").forEach(fade);
  tray(boards);
  compare();
});
