#include "mpi/prepare.hpp"

#include "mpi/open_source.hpp"
#include "mpi/staged_target.hpp"

namespace reshard::mpi {

Prepared prepare(const Comm& comm, const Wish& wish,
                 const std::function<void(const std::string&)>& done) {
  Prepared p;
  formats::Problems problems;
  p.source = open_source(comm, wish.source, problems);
  done("index");
  agree(comm, "describe", [&] {
    problems.raise();
    p.target = formats::dialect_named(wish.target.to).describe(p.source, wish.target, problems);
    problems.raise();
    for (const formats::FileDescription& file : p.target.files) {
      p.layouts.push_back(formats::layout_of(file));
    }
    p.geometry = formats::make_geometry(p.source, p.target, p.layouts);
  });
  p.staging =
      agree_on_staging(comm, wish.target.path, p.target, p.source.found.unit, wish.overwrite);
  done("describe");
  return p;
}

}  // namespace reshard::mpi
