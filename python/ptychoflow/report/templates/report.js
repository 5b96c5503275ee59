"use strict";

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, index) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => { const cell = row.cells[index]; return cell.dataset.value ?? cell.textContent.trim(); };
    const missing = value => value === "" || value === "–";
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      const both = isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", {numeric: true}) : x - y;
      return up ? both : -both;
    };
    [...body.rows].sort(order).forEach(row => body.append(row));
  }));
}

// Two pictures over each other: the right one is cut off to the left of the wipe.
for (const viewer of document.querySelectorAll(".viewer")) {
  const find = name => viewer.querySelector(name), pictures = [...viewer.querySelectorAll(".stage img")];
  const [left, right] = ["left", "right"].map(side => find(`select[data-side=${side}]`));
  const slider = find("input[type=range]"), blink = find(".blink"), stage = find(".stage");
  let timer = 0, flip = false;
  const name = select => select.options[select.selectedIndex].text;
  const draw = () => {
    const part = find("input[type=radio]:checked").value;
    const wipe = timer ? (flip ? 0 : 100) : +slider.value;
    for (const picture of pictures) {
      const own = select => picture.dataset.part === part && picture.dataset.panel === select.value;
      picture.hidden = !own(left) && !own(right);
      picture.style.zIndex = own(left) ? 0 : 1;
      picture.style.clipPath = own(left) ? "none" : `inset(0 0 0 ${wipe}%)`;
    }
    find(".name.left").textContent = wipe > 0 ? name(left) : "";
    find(".name.right").textContent = wipe < 100 ? name(right) : "";
    find(".edge").style.left = `${wipe}%`;
    const now = `${part === "amp" ? "Amplitude" : "Phase"}, ${name(left)} on the left, ${name(right)} on the right.`;
    if (find(".now").textContent !== now) find(".now").textContent = now;
  };
  blink.addEventListener("click", () => {
    clearInterval(timer);
    timer = timer ? 0 : setInterval(() => { flip = !flip; draw(); }, 700);
    blink.setAttribute("aria-pressed", timer ? "true" : "false");
    draw();
  });
  const drag = event => {
    if (!event.buttons) return;
    const box = stage.getBoundingClientRect();
    slider.value = 100 * (event.clientX - box.left) / box.width;
    draw();
  };
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("pointermove", drag);
  viewer.addEventListener("input", draw);
  viewer.hidden = false;
  draw();
}

// A link into a folded part unfolds it.
const unfold = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  for (let part = target && (target.querySelector("details") ?? target); part; part = part.parentElement)
    if (part.tagName === "DETAILS") part.open = true;
};
addEventListener("hashchange", unfold);
unfold();
