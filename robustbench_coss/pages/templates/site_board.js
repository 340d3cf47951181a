// ---- leaderboard ----

const number = (cell) =>
  cell.dataset.v === undefined ? NaN : parseFloat(cell.dataset.v.replace(/,/g, ""));

/** Rows by a column; what has no value comes last in both directions, ties keep their order. */
const sorted = (rows, column, kind, direction) => {
  const sign = direction === "ascending" ? 1 : -1;
  const collator = new Intl.Collator("en", { numeric: true });
  const keyed = rows.map((row) => {
    const cell = row.cells[column];
    return [kind === "text" ? (cell.querySelector("a") ?? cell).textContent : number(cell), row];
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

/** A board's table in the state of the page's address: what it is sorted by, filters, columns. */
const interactive = (board) => {
  const table = board.querySelector("table.numbers");
  const body = table.tBodies[0];
  const rows = [...body.rows]; // as they come: best clean top-1 first
  const heads = [...table.querySelectorAll("th[data-sort]")];
  const titles = heads.map((head) => head.textContent.trim());
  const all = [...board.querySelectorAll("table.numbers tr[data-id]")];
  const find = board.querySelector("input[data-find]");
  const selects = [...board.querySelectorAll("select[data-filter]")];
  const count = board.querySelector("[data-shown]");
  const start = heads.findIndex((head) => head.hasAttribute("aria-sort"));
  const initial = start < 0 ? "" : `${start},${heads[start].getAttribute("aria-sort")}`;
  const prefix = `${board.id}.`;
  const boxes = heads.map(() => null);
  let order = initial; // "column,direction"

  /** What differs from a fresh page, kept in the address, so that Back and a link lead to it. */
  const keep = () => {
    const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    const put = (key, value) =>
      value === "" ? state.delete(prefix + key) : state.set(prefix + key, value);
    put("sort", order === initial ? "" : order);
    put("find", find.value);
    selects.forEach((select) => put(`f${select.dataset.filter}`, select.value));
    put("hide", boxes.flatMap((box, k) => (box && !box.checked ? [k] : [])).join(","));
    try {
      history.replaceState(null, "", state.size ? `#${state}` : location.pathname + location.search);
    } catch {
      // some browsers refuse for files; the page works without
    }
  };

  const sortBy = (column, direction) => {
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    order = `${column},${direction}`;
    if (!heads[column]) {
      order = initial;
      body.append(...rows);
    } else {
      heads[column].setAttribute("aria-sort", direction);
      body.append(
        ...(order === initial ? rows : sorted(rows, column, heads[column].dataset.sort, direction)),
      );
    }
    rank();
  };

  const rank = () => {
    let place = 0;
    for (const row of body.rows) {
      const shown = row.querySelector("[data-rank]");
      if (shown && !row.hidden) shown.textContent = ++place;
    }
  };

  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = selects.filter((select) => select.value !== "");
    let shown = 0;
    for (const row of all) {
      const fits =
        words.every((word) => row.dataset.find.includes(word)) &&
        wanted.every(
          (select) => row.getAttribute(`data-filter-${select.dataset.filter}`) === select.value,
        );
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown} of ${all.length} models`;
    board.querySelector(".nothing").hidden = shown > 0;
    rank();
  };

  /** Columns are hidden by a rule each, not cell by cell: a table may have thousands. */
  const style = make("style");
  document.head.append(style);
  const hide = () => {
    const hidden = boxes.flatMap((box, k) => (box && !box.checked ? [k + 1] : []));
    style.textContent = hidden
      .map((k) => `[id="${board.id}"] table.numbers tr:not(.suites) > :nth-child(${k}){display:none}`)
      .join("");
    let column = 1;
    for (const group of table.querySelectorAll(".suites th")) {
      const members = Array.from({ length: Number(group.dataset.count) }, () => ++column);
      const left = members.filter((k) => !hidden.includes(k)).length;
      group.hidden = left === 0;
      group.colSpan = Math.max(left, 1);
    }
    fade(board.querySelector("[data-fade]"));
  };

  heads.forEach((head, column) => {
    const button = make("button", { type: "button", class: "sort" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const best =
        head.dataset.sort === "text" || head.dataset.better === "lower"
          ? ["ascending", "descending"]
          : ["descending", "ascending"];
      sortBy(column, head.getAttribute("aria-sort") === best[0] ? best[1] : best[0]);
      keep();
    });
    if (column === 0) return;
    const box = make("input", { type: "checkbox", autocomplete: "off" });
    box.checked = true;
    box.addEventListener("change", () => {
      hide();
      keep();
    });
    boxes[column] = box;
    board.querySelector("[data-columns]").append(make("label", {}, box, ` ${titles[column]}`));
  });
  for (const control of [find, ...selects]) {
    control.addEventListener(control === find ? "input" : "change", () => {
      filter();
      keep();
    });
  }

  const read = () => {
    const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    const get = (key) => state.get(prefix + key) ?? "";
    const [column, direction] = (get("sort") || initial).split(",");
    find.value = get("find");
    selects.forEach((select) => (select.value = get(`f${select.dataset.filter}`)));
    const hidden = get("hide").split(",");
    boxes.forEach((box, k) => box && (box.checked = !hidden.includes(String(k))));
    sortBy(Number(column || -1), direction === "ascending" ? "ascending" : "descending");
    filter();
    hide();
  };
  board.querySelector(".tools").hidden = false;
  addEventListener("hashchange", () => location.hash.includes("=") && read());
  read();
};

/** A table that goes on to the right fades out there. */
const fade = (box) => {
  const show = () =>
    box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  if (!box.dataset.watched) {
    box.dataset.watched = "yes";
    box.addEventListener("scroll", show, { passive: true });
    addEventListener("resize", show);
  }
  show();
};

const fades = () => document.querySelectorAll("[data-fade]").forEach(fade);

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
      const name = head.querySelector("a").textContent.trim();
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

