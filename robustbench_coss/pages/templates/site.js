// What the leaderboard's pages do beyond being read: theme, sorting, filters, comparing models.
// No framework, nothing fetched. Text goes in as text nodes only, never as markup.
"use strict";

(() => {
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

  // ---- leaderboard ----

  const number = (cell) =>
    cell.dataset.v === undefined ? NaN : parseFloat(cell.dataset.v.replace(/,/g, ""));

  /** Rows by a column; what has no value comes last in both directions, ties keep their order. */
  const sorted = (rows, column, kind, direction) => {
    const sign = direction === "ascending" ? 1 : -1;
    const collator = new Intl.Collator("en", { numeric: true });
    const keyed = rows.map((row) => {
      const cell = row.cells[column];
      return [kind === "text" ? cell.textContent : number(cell), row];
    });
    const order =
      kind === "text"
        ? (a, b) => sign * collator.compare(a, b)
        : (a, b) =>
            Number.isNaN(a) || Number.isNaN(b)
              ? Number.isNaN(a) - Number.isNaN(b)
              : sign * (a - b);
    return keyed.sort(([a], [b]) => order(a, b)).map(([, row]) => row);
  };

  const sortable = (table) => {
    const body = table.tBodies[0];
    const rows = [...body.rows]; // as they come: best clean top-1 first
    const heads = [...table.querySelectorAll("th[data-sort]")];
    heads.forEach((head, column) => {
      const button = make("button", { type: "button", class: "sort" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const best =
          head.dataset.sort === "text" || head.dataset.better === "lower"
            ? ["ascending", "descending"]
            : ["descending", "ascending"];
        const direction = head.getAttribute("aria-sort") === best[0] ? best[1] : best[0];
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", direction);
        body.append(...sorted(rows, column, head.dataset.sort, direction));
      });
    });
  };

  const filterable = (board) => {
    const rows = [...board.querySelectorAll("table.numbers tr[data-id]")];
    const find = board.querySelector("input[data-find]");
    const selects = [...board.querySelectorAll("select[data-filter]")];
    const count = board.querySelector("[data-count]");
    const show = () => {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      const wanted = selects.filter((select) => select.value !== "");
      let shown = 0;
      for (const row of rows) {
        const fits =
          words.every((word) => row.dataset.find.includes(word)) &&
          wanted.every(
            (select) => row.getAttribute(`data-filter-${select.dataset.filter}`) === select.value,
          );
        row.hidden = !fits;
        shown += fits;
      }
      count.textContent = `${shown} of ${rows.length} models`;
      board.querySelector(".nothing").hidden = shown > 0;
    };
    find.addEventListener("input", show);
    selects.forEach((select) => select.addEventListener("change", show));
    board.querySelector(".tools").hidden = false;
    show();
  };

  const tray = (boards) => {
    const box = document.querySelector(".tray");
    if (box === null) return;
    const status = box.querySelector("[data-tray-status]");
    const names = box.querySelector("[data-tray-names]");
    const go = box.querySelector("[data-tray-go]");
    let picked = []; // checkboxes, in the order picked
    const show = (message = "") => {
      status.textContent = message;
      status.classList.toggle("refused", message !== "");
      names.textContent = picked.map((box) => box.dataset.name).join(" · ");
      box.hidden = picked.length === 0;
      const ready = picked.length > 1;
      go.setAttribute("aria-disabled", String(!ready));
      go.textContent = ready ? `Compare ${picked.length}` : "Compare: pick another";
      if (ready) {
        const page = picked[0].closest(".board").dataset.compare;
        go.href = `${page}#models=${picked.map((box) => box.value).join(",")}`;
      } else {
        go.removeAttribute("href");
      }
    };
    for (const board of boards) {
      const most = Number(board.dataset.most);
      for (const row of board.querySelectorAll("table.numbers tr[data-id]")) {
        const head = row.cells[0];
        const name = head.textContent.trim();
        const box = make("input", { type: "checkbox", class: "pick", autocomplete: "off" });
        box.value = row.dataset.id;
        box.dataset.name = head.querySelector(".short").textContent;
        box.setAttribute("aria-label", `Compare ${name}`);
        box.addEventListener("change", () => {
          if (!box.checked) {
            picked = picked.filter((other) => other !== box);
            show();
            return;
          }
          if (picked.length > 0 && picked[0].closest(".board") !== board) {
            box.checked = false;
            show("Models of different test sets cannot be compared.");
          } else if (picked.length === most) {
            box.checked = false;
            show(`At most ${most} models fit one plot; take one out first.`);
          } else {
            picked.push(box);
            show();
          }
        });
        head.prepend(box);
      }
    }
    box.querySelector("[data-tray-clear]").addEventListener("click", () => {
      picked.forEach((box) => (box.checked = false));
      picked = [];
      show();
    });
  };

  // ---- comparison ----

  const swatch = (stroke) => {
    const picture = make("svg", { class: "swatch", viewBox: "0 0 44 14", "aria-hidden": "true" });
    picture.style.setProperty("--c", stroke.colour);
    picture.append(
      make("path", { class: "line", d: "M2 7H42", "stroke-dasharray": stroke.dash }),
      make("path", { class: "marks", d: `M22 7${stroke.marker}` }),
    );
    return picture;
  };

  /** A curve in a model's colour, dash and marker; its paths come with the page. */
  const draw = ([thin, band, line, marks], stroke, marker, down) => {
    const group = make("g", { transform: `translate(0 ${down})` });
    group.style.setProperty("--c", stroke.colour);
    const add = (attributes) => attributes.d && group.append(make("path", attributes));
    if (thin) {
      add({ class: "thin", d: line });
    } else {
      add({ class: "band", d: band });
      add({ class: "line", d: line, "stroke-dasharray": stroke.dash });
      add({ class: "marks", d: marks.replaceAll(marker, stroke.marker) });
    }
    return group;
  };

  const cell = (text, interval, marked) => {
    const made = make("td", {}, make("span", { class: "num" }, text));
    if (marked) {
      const why = make("span", { class: "sr" }, " (doubtful: see the model's page)");
      made.append(make("span", { class: "mark" }, "†", why));
    }
    if (interval) made.append(make("span", { class: "interval" }, ` ${interval}`));
    return made;
  };

  /** The rows of a view that one of some models has numbers for. */
  const rowsOf = (view, picked) => {
    const own = picked.map((model) => view.cells[model] ?? {});
    return view.rows.flatMap((name, at) =>
      own.some((cells) => at in cells)
        ? [[name, own.map((cells) => cell(...(cells[at] ?? ["–", "", 0])))]]
        : [],
    );
  };

  const compare = () => {
    const page = document.getElementById("compare");
    if (page === null) return;
    const data = JSON.parse(document.getElementById("data").textContent);
    const { models, strokes, marker, views } = data;
    const place = new Map(models.map(([id], i) => [id, i]));
    const label = (model) => models[model].slice(1).filter(Boolean).join(" · ");
    const [add, show] = ["add", "show"].map((id) => document.getElementById(id));
    const [message, legend, table] = ["message", "legend", "numbers"].map((id) =>
      document.getElementById(id),
    );
    const most = strokes.length;
    let picked = [];

    const say = (text, refused = false) => {
      message.textContent = text;
      message.classList.toggle("refused", refused);
    };

    const describe = () =>
      picked.length < 2
        ? `Choose ${picked.length === 0 ? "two" : "another one"} to ${most} models.`
        : `${picked.length} models are shown.`;

    const update = () => {
      const view = views[show.value];
      legend.replaceChildren(
        ...picked.map((model, k) => {
          const away = make("button", { type: "button", class: "quiet" }, "×");
          away.setAttribute("aria-label", `Take out ${label(model)}`);
          away.addEventListener("click", () => {
            picked = picked.filter((other) => other !== model);
            say(describe());
            update();
            add.focus();
          });
          const link = make("a", { href: `models/${models[model][0]}.html` }, label(model));
          const lacks = !(model in view.curves);
          const note = make("span", { class: "faint" }, lacks ? "not measured" : "");
          return make("li", {}, swatch(strokes[k]), link, note, away);
        }),
      );
      for (const section of document.querySelectorAll("[data-view]")) {
        section.hidden = section.dataset.view !== show.value;
        if (section.hidden) continue;
        section.querySelectorAll(".curves").forEach((group, p) => {
          const drawn = picked.flatMap((model, k) =>
            (view.curves[model]?.[p] ?? []).map((curve) =>
              draw(curve, strokes[k], marker, view.apart * (k - (picked.length - 1) / 2)),
            ),
          );
          group.replaceChildren(...drawn);
        });
      }
      table.replaceChildren(
        make("caption", { class: "sr" }, "What the plot shows, in numbers, with 95 % intervals"),
        make(
          "thead",
          {},
          make(
            "tr",
            {},
            make("th", { scope: "col" }, view.label),
            ...picked.map((model) => make("th", { scope: "col", class: "model" }, label(model))),
          ),
        ),
        make(
          "tbody",
          {},
          ...rowsOf(view, picked).map(([name, cells]) => make("tr", {}, make("th", { scope: "row" }, name), ...cells)),
        ),
      );
      const address = `#models=${picked.map((model) => models[model][0]).join(",")}`;
      try {
        history.replaceState(null, "", `${address}&show=${show.value}`);
      } catch {
        // some browsers refuse for files; the page works without
      }
    };

    const pick = (model) => {
      if (picked.includes(model)) {
        say(`${label(model)} is shown already.`);
      } else if (picked.length === most) {
        say(`At most ${most} models fit one plot; take one out first.`, true);
      } else {
        picked.push(model);
        say(describe());
      }
    };

    add.addEventListener("change", () => {
      const model = place.get(add.value);
      add.value = "";
      if (model === undefined) return;
      pick(model);
      update();
    });
    show.addEventListener("change", update);

    const read = () => {
      const wanted = new URLSearchParams(location.hash.slice(1));
      picked = [];
      say(describe());
      for (const id of (wanted.get("models") ?? "").split(",")) {
        if (place.has(id)) pick(place.get(id));
      }
      if (picked.length === 0) models.slice(0, 2).forEach((_, model) => pick(model));
      show.value = Object.hasOwn(views, wanted.get("show")) ? wanted.get("show") : "headline";
      update();
    };
    addEventListener("hashchange", read);
    read();
    page.hidden = false;
  };

  document.addEventListener("DOMContentLoaded", () => {
    themeButton();
    const boards = [...document.querySelectorAll(".board")];
    boards.forEach((board) => {
      sortable(board.querySelector("table.numbers"));
      filterable(board);
    });
    tray(boards);
    compare();
  });
})();
